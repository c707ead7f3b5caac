//! Numbers of bytes as people write them: `1048576`, `512K`, `32M`, `2G` (powers of 1024).

use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) usize);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_ascii_uppercase();
        let upper = upper.strip_suffix('B').unwrap_or(&upper);
        let upper = upper.strip_suffix('I').unwrap_or(upper);
        let (digits, shift) = match upper.char_indices().last() {
            Some((at, 'K')) => (&upper[..at], 10),
            Some((at, 'M')) => (&upper[..at], 20),
            Some((at, 'G')) => (&upper[..at], 30),
            Some((at, 'T')) => (&upper[..at], 40),
            _ => (upper, 0),
        };
        digits
            .parse::<usize>()
            .ok()
            .and_then(|n| n.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| "a number of bytes, such as 1048576, 512K, 32M or 2G".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("512K", 512 << 10),
            ("32m", 32 << 20),
            ("2GiB", 2 << 30),
            ("1MB", 1 << 20),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "1X", "99999999999T", "M1", "é"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
