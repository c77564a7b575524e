//! The `traceparent` header of W3C Trace Context: `00-{trace}-{span}-{flags}`, all in lower-case hexadecimal.

use http::HeaderValue;
use opentelemetry::trace::{SpanId, TraceId};

const SAMPLED: u8 = 1;

#[derive(Debug, PartialEq)]
pub struct TraceParent {
    pub trace: TraceId,
    pub span: SpanId,
    pub is_sampled: bool,
}

impl TraceParent {
    /// `None` for what the specification says to ignore. Versions above 00 may have more fields.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut fields = text.split('-');
        let version = hexadecimal(fields.next()?, 2)?;
        let (trace, span) = (hexadecimal(fields.next()?, 32)?, hexadecimal(fields.next()?, 16)?);
        let flags = hexadecimal(fields.next()?, 2)?;
        if version == 0xff || (version == 0 && fields.next().is_some()) || trace == 0 || span == 0 {
            return None;
        }
        Some(Self {
            trace: TraceId::from(trace),
            span: SpanId::from(span as u64),
            is_sampled: flags as u8 & SAMPLED != 0,
        })
    }

    pub fn header(&self) -> HeaderValue {
        let text = format!("00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.is_sampled) * SAMPLED);
        HeaderValue::from_str(&text).expect("hexadecimal digits and dashes are valid")
    }
}

fn hexadecimal(text: &str, digits: usize) -> Option<u128> {
    let valid = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| u128::from_str_radix(text, 16).ok())?
}

pub fn new_trace() -> TraceId {
    TraceId::from(fastrand::u128(1..))
}

pub fn new_span() -> SpanId {
    SpanId::from(fastrand::u64(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_and_written() {
        let parsed = TraceParent::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(parsed.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parsed.span.to_string(), "00f067aa0ba902b7");
        assert!(parsed.is_sampled);
        assert_eq!(parsed.header(), TEXT);
        let unsampled = TEXT.replace("-01", "-00");
        assert!(!TraceParent::parse(unsampled.as_bytes()).unwrap().is_sampled);
        let newer = format!("{}-more", TEXT.replacen("00-", "cc-", 1));
        assert_eq!(TraceParent::parse(newer.as_bytes()).unwrap(), parsed);
    }

    #[test]
    fn what_is_no_traceparent_is_ignored() {
        for text in [
            "",
            "00",
            &TEXT.replacen("00-", "ff-", 1),
            &TEXT.to_uppercase(),
            &format!("{TEXT}-more"),
            &format!("{TEXT}0"),
            &TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &TEXT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &TEXT.replace("-01", "-+1"),
            &TEXT.replace('-', "_"),
        ] {
            assert_eq!(TraceParent::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(TraceParent::parse(b"00-\xff"), None);
    }
}
