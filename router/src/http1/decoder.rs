//! Takes the framing off a body (RFC 9112, section 7.1), in place and however the bytes arrive.

use std::io;
use std::ops::Range;

/// Hexadecimal digits that a `u64` has.
const MAX_SIZE_DIGITS: u32 = 16;

/// The longest line with a chunk's size, extensions included.
const MAX_SIZE_LINE_BYTES: usize = 4 << 10;

/// The most bytes of trailers, which are dropped.
const MAX_TRAILER_BYTES: usize = 16 << 10;

/// How the body of a message ends, and where in it we are.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoder {
    /// So many bytes are left.
    Length(u64),
    Chunked(Chunked),
    /// The body ends with the connection.
    UntilClose,
    /// The end has been seen.
    Ended,
}

/// What the next byte of a chunked body is; the number says how many bytes of its line came before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunked {
    Size { size: u64, digits: u32 },
    Extension { size: u64, length: usize },
    SizeEnd { size: u64 },
    Data { left: u64 },
    DataEnd { newline: bool },
    TrailerStart { length: usize },
    Trailer { length: usize },
    TrailerEnd { length: usize },
    LastEnd,
}

/// What `decode` made of some bytes.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    /// Where the data lies now, without framing.
    pub data: Range<usize>,
    /// How many of the bytes belonged to the body; more than these are not the body's.
    pub consumed: usize,
}

// ===== impl Decoder =====

impl Decoder {
    pub const CHUNKED: Self = Self::Chunked(Chunked::Size { size: 0, digits: 0 });

    /// A body of so many bytes.
    pub fn length(length: u64) -> Self {
        if length == 0 { Self::Ended } else { Self::Length(length) }
    }

    pub fn is_ended(&self) -> bool {
        *self == Self::Ended
    }

    /// Bytes of data that are left, if that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Ended => Some(0),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Moves the data of the next bytes of the body together. An error if they are no valid framing.
    pub fn decode(&mut self, bytes: &mut [u8]) -> io::Result<Decoded> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *self = Self::length(*left - taken as u64);
                Ok(Decoded { data: 0..taken, consumed: taken })
            }
            Self::Chunked(_) => self.decode_chunked(bytes),
            Self::UntilClose => Ok(Decoded { data: 0..bytes.len(), consumed: bytes.len() }),
            Self::Ended => Ok(Decoded { data: 0..0, consumed: 0 }),
        }
    }

    /// The connection has ended: an error unless the body has, too.
    pub fn end(&mut self) -> io::Result<()> {
        match self {
            Self::UntilClose | Self::Ended => {
                *self = Self::Ended;
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection closed in the middle of a body")),
        }
    }

    fn decode_chunked(&mut self, bytes: &mut [u8]) -> io::Result<Decoded> {
        let mut data = 0..0;
        let mut position = 0;
        while let Self::Chunked(state) = self
            && position < bytes.len()
        {
            if let Chunked::Data { left } = state {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - position);
                if data.is_empty() {
                    data = position..position;
                } else if data.end != position {
                    bytes.copy_within(position..position + taken, data.end);
                }
                data.end += taken;
                position += taken;
                *left -= taken as u64;
                if *left == 0 {
                    *state = Chunked::DataEnd { newline: false };
                }
                continue;
            }
            match state.after(bytes[position])? {
                Some(next) => *state = next,
                None => *self = Self::Ended,
            }
            position += 1;
        }
        Ok(Decoded { data, consumed: position })
    }
}

// ===== impl Chunked =====

impl Chunked {
    /// The state after a byte of framing; `None` after the last one of the body.
    fn after(&self, byte: u8) -> io::Result<Option<Self>> {
        let next = match (*self).clone() {
            Self::Size { size, digits } => match (byte as char).to_digit(16) {
                Some(digit) if digits < MAX_SIZE_DIGITS => {
                    Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                }
                None if digits > 0 => Self::after_size(size, 0, byte)?,
                _ => return Err(invalid("the size of a chunk")),
            },
            Self::Extension { size, length } => Self::after_size(size, length, byte)?,
            Self::SizeEnd { size: 0 } if byte == b'\n' => Self::TrailerStart { length: 0 },
            Self::SizeEnd { size } if byte == b'\n' => Self::Data { left: size },
            Self::DataEnd { newline: false } if byte == b'\r' => Self::DataEnd { newline: true },
            Self::DataEnd { newline: true } if byte == b'\n' => Self::Size { size: 0, digits: 0 },
            Self::TrailerStart { .. } if byte == b'\r' => Self::LastEnd,
            Self::LastEnd if byte == b'\n' => return Ok(None),
            Self::TrailerStart { length } | Self::Trailer { length } => match byte {
                _ if length >= MAX_TRAILER_BYTES => return Err(invalid("the trailers: too long")),
                b'\r' => Self::TrailerEnd { length: length + 1 },
                b'\n' | 0 => return Err(invalid("a trailer")),
                _ => Self::Trailer { length: length + 1 },
            },
            Self::TrailerEnd { length } if byte == b'\n' => Self::TrailerStart { length: length + 1 },
            _ => return Err(invalid("the end of a line")),
        };
        Ok(Some(next))
    }

    /// After the digits of a size: extensions up to the end of the line, of which nothing is used.
    fn after_size(size: u64, length: usize, byte: u8) -> io::Result<Self> {
        match byte {
            b'\r' => Ok(Self::SizeEnd { size }),
            _ if length >= MAX_SIZE_LINE_BYTES => Err(invalid("the extension of a chunk: too long")),
            // The first byte tells an extension from what is no size at all.
            b';' | b' ' | b'\t' => Ok(Self::Extension { size, length: length + 1 }),
            b'\n' | 0 => Err(invalid("the extension of a chunk")),
            _ if length > 0 => Ok(Self::Extension { size, length: length + 1 }),
            _ => Err(invalid("the size of a chunk")),
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid chunked body: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data, and what was left over, when the bytes arrive in pieces that end at `cuts`.
    fn decoded(mut decoder: Decoder, bytes: &[u8], cuts: &[usize]) -> io::Result<(Vec<u8>, Vec<u8>, Decoder)> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let (mut data, mut left_over) = (Vec::new(), Vec::new());
        for cut in cuts.windows(2) {
            let mut piece = bytes[cut[0]..cut[1]].to_vec();
            let Decoded { data: range, consumed } = decoder.decode(&mut piece)?;
            data.extend_from_slice(&piece[range]);
            left_over.extend_from_slice(&bytes[cut[0] + consumed..cut[1]]);
        }
        Ok((data, left_over, decoder))
    }

    #[test]
    fn the_framing_goes_and_the_rest_is_left_alone() {
        for (decoder, bytes, data, left_over) in [
            (Decoder::length(3), "abcdef", "abc", "def"),
            (Decoder::length(0), "abc", "", "abc"),
            (Decoder::CHUNKED, "3\r\nabc\r\n0\r\n\r\nnext", "abc", "next"),
            (Decoder::CHUNKED, "0A;x=\"1\"\r\n0123456789\r\n1 \r\n-\r\n000\r\na: b\r\nc: d\r\n\r\n", "0123456789-", ""),
        ] {
            let (seen, rest, end) = decoded(decoder, bytes.as_bytes(), &[]).unwrap();
            assert_eq!((seen.as_slice(), rest.as_slice()), (data.as_bytes(), left_over.as_bytes()), "{bytes:?}");
            assert!(end.is_ended(), "{bytes:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bytes in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1\n",
            "1\r\r",
            "1x\r\n",
            "1;a\nb\r\n",
            "1;\0\r\n",
            "00000000000000001\r\n",
            "2\r\nab\n",
            "2\r\nabc\r\n",
            "2\r\nab\rx",
            "0\r\nx\n",
            "0\r\na: b\rc\r\n",
            "0\r\n\rx",
        ] {
            assert!(decoded(Decoder::CHUNKED, bytes.as_bytes(), &[]).is_err(), "{bytes:?}");
        }
        let long = "x".repeat(20_000);
        assert!(decoded(Decoder::CHUNKED, format!("1;{long}").as_bytes(), &[]).is_err());
        assert!(decoded(Decoder::CHUNKED, format!("0\r\na: {long}").as_bytes(), &[]).is_err());
        let lines = "a: b\r\n".repeat(4000);
        assert!(decoded(Decoder::CHUNKED, format!("0\r\n{lines}").as_bytes(), &[]).is_err());
    }

    #[test]
    fn a_body_that_is_cut_does_not_look_complete() {
        for mut decoder in [Decoder::length(1), Decoder::CHUNKED] {
            assert_eq!(decoder.end().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        let mut decoder = Decoder::UntilClose;
        decoder.end().unwrap();
        assert!(decoder.is_ended());
    }

    proptest! {
        #[test]
        fn how_the_bytes_arrive_does_not_matter(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..8),
            trailers in prop::collection::vec("[a-z]{1,9}: [ -~]{0,9}\r\n", 0..3),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:X};e=1\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(format!("0\r\n{}\r\nGET /", trailers.concat()).as_bytes());
            let (data, left_over, decoder) = decoded(Decoder::CHUNKED, &bytes, &cuts).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(left_over, b"GET /");
            prop_assert!(decoder.is_ended());
        }

        #[test]
        fn any_bytes_are_refused_at_the_same_place_however_they_arrive(
            bytes in prop::collection::vec(prop::sample::select(b"0a1;\r\n \0x".to_vec()), 0..40),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let whole = decoded(Decoder::CHUNKED, &bytes, &[]).ok();
            prop_assert_eq!(whole, decoded(Decoder::CHUNKED, &bytes, &cuts).ok());
        }
    }
}
