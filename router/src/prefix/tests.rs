//! Tests of the prefix index.
