//! Server-sent events, as they arrive: any split of the bytes gives the same events.
//!
//! Only the `data` field is of use here; names, ids and retry times are skipped, as are comments.
//! See the HTML standard, "9.2.6 Interpreting an event stream".

/// Longest event that is taken, in bytes; a server that sends more is broken.
const MAX_EVENT: usize = 16 << 20;

/// The parser's state between two pieces of the body.
#[derive(Debug, Default)]
pub(crate) struct SseParser {
    /// The line so far, without its end.
    line: Vec<u8>,
    /// `data` of the event so far, and whether there was any.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
    /// A byte-order mark can only be at the very start.
    started: bool,
}

/// An event longer than [`MAX_EVENT`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl SseParser {
    /// Takes the next piece; appends the data of each event that it completes.
    pub(crate) fn push(&mut self, piece: &[u8], events: &mut Vec<String>) -> Result<(), TooLong> {
        for &byte in piece {
            let follows_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    self.end_line(events);
                }
                _ if self.line.len() + self.data.len() >= MAX_EVENT => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<String>) {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                let data = std::mem::take(&mut self.data);
                events.push(String::from_utf8_lossy(&data).into_owned());
            }
            return;
        }
        let (field, value) = match line.iter().position(|&b| b == b':') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        if field == b"data" {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut events).unwrap();
        }
        events
    }

    #[test]
    fn every_split_gives_the_same_events() {
        let body = "\u{feff}data: {\"a\":\"é\"}\r\n\r\n: keep-alive\n\ndata:one\ndata: two\n\n\
                    event: x\ndata\n\nid: 7\n\rdata: [DONE]\r\rdata: cut off"
            .as_bytes();
        let expected = ["{\"a\":\"é\"}", "one\ntwo", "", "[DONE]"];
        assert_eq!(parse(&[body]), expected);
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let pieces = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(parse(&pieces), expected, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; 1 << 20];
        let outcome: Result<Vec<()>, _> =
            (0..17).map(|_| parser.push(&piece, &mut Vec::new())).collect();
        assert_eq!(outcome, Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_split_anywhere(body in proptest::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..80),
            at in 0usize..80) {
            let at = at.min(body.len());
            prop_assert_eq!(parse(&[&body]), parse(&[&body[..at], &body[at..]]));
        }
    }
}
