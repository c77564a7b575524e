//! A key that no log line and no error message shows.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Text that `Debug` does not print. It is serialised as it is: a configuration that is handed on has to hold it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// True when `given` is this secret; the time that it takes tells nothing but the secret's length.
    pub fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// True when it can stand in a header after `Bearer`.
    pub fn is_sendable(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_and_never_shown() {
        let secret = Secret::from("s3cret");
        assert!(secret.is(b"s3cret"));
        for other in [&b"s3creT"[..], b"s3cre", b"s3crets", b""] {
            assert!(!secret.is(other), "{other:?}");
        }
        assert_eq!(format!("{:?}", Some(secret)), "Some(***)");
    }

    #[test]
    fn what_no_header_can_carry_is_no_key() {
        assert!(Secret::from("sk-1_2.3~+/=").is_sendable());
        for text in ["", "two words", "new\nline", "schlüssel"] {
            assert!(!Secret::from(text).is_sendable(), "{text}");
        }
    }
}
