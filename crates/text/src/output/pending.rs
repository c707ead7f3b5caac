//! Text that has come and is not understood yet, and the markers in it.
//!
//! Every parser of a model's output reads from a [`Pending`]. It answers only what no further
//! text can change, so that how the text is cut into pieces cannot matter: of several markers the
//! leftmost counts, and of those that begin at the same place the longest.

/// Text that has come and is not understood yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    text: String,
    /// Where the text begins that is still to be read, a byte offset.
    start: usize,
    /// No more text will come.
    ended: bool,
}

/// What the text begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// The marker of this index.
    Marker(usize),
    /// No marker.
    Other,
    /// It may still become a marker.
    Unsure,
}

impl Pending {
    /// More text.
    pub(crate) fn push(&mut self, text: &str) {
        // Moving the rest to the front only when that frees half keeps it linear.
        if self.start * 2 >= self.text.len() {
            self.text.drain(..self.start);
            self.start = 0;
        }
        self.text.push_str(text);
    }

    /// No more text will come.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether no more text will come.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.text[self.start..]
    }

    /// Whether there is no text.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.text.len()
    }

    /// Removes the first `len` bytes, which end at a character's border.
    pub(crate) fn skip(&mut self, len: usize) {
        self.start += len;
    }

    /// Removes and gives the first `len` bytes, which end at a character's border.
    pub(crate) fn take(&mut self, len: usize) -> &str {
        let from = self.start;
        self.start += len;
        &self.text[from..self.start]
    }

    /// Gives back the last `len` bytes that were removed.
    pub(crate) fn put_back(&mut self, len: usize) {
        self.start -= len;
    }

    /// Removes white space from the front; whether anything else follows.
    pub(crate) fn skip_whitespace(&mut self) -> bool {
        self.start += whitespace(self.text());
        !self.is_empty()
    }

    /// Which of `markers` the text begins with, the longest.
    pub(crate) fn beginning(&self, markers: &[&str]) -> Beginning {
        let text = self.text();
        if !self.ended && markers.iter().any(|m| m.len() > text.len() && m.starts_with(text)) {
            return Beginning::Unsure;
        }
        let longest = (0..markers.len())
            .filter(|&index| !markers[index].is_empty() && text.starts_with(markers[index]))
            .max_by_key(|&index| markers[index].len());
        longest.map_or(Beginning::Other, Beginning::Marker)
    }

    /// Removes the text before the first of `markers`, and the marker, as far as that is certain.
    /// Gives that text, and the marker's index where there is one.
    pub(crate) fn take_before(&mut self, markers: &[&str]) -> (&str, Option<usize>) {
        let text = self.text();
        let found = (0..markers.len())
            .filter_map(|index| text.find(markers[index]).map(|at| (at, index)))
            .min_by_key(|&(at, index)| (at, std::cmp::Reverse(markers[index].len())));
        let open = if self.ended { None } else { unfinished(text, markers) };
        let (before, after, marker) = match (found, open) {
            // What may become a marker at the same place is the longer one.
            (Some((at, index)), open) if open.is_none_or(|open| open > at) => {
                (at, at + markers[index].len(), Some(index))
            }
            (_, Some(open)) => (open, open, None),
            (_, None) => (text.len(), text.len(), None),
        };
        let from = self.start;
        self.start += after;
        (&self.text[from..from + before], marker)
    }
}

/// Length of the white space that `text` begins with.
pub(crate) fn whitespace(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// Where the first end of `text` begins that is a proper prefix of a marker.
fn unfinished(text: &str, markers: &[&str]) -> Option<usize> {
    let longest = markers.iter().map(|marker| marker.len()).max()?;
    let from = text.len().saturating_sub(longest.saturating_sub(1));
    (from..text.len())
        .filter(|&at| text.is_char_boundary(at))
        .find(|&at| markers.iter().any(|m| m.len() > text.len() - at && m.starts_with(&text[at..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text before each marker and the marker, feeding the pieces one after the other.
    fn read(pieces: &[&str], markers: &[&str]) -> Vec<String> {
        let mut pending = Pending::default();
        let mut parts = vec![String::new()];
        for at in 0..=pieces.len() {
            match pieces.get(at) {
                Some(piece) => pending.push(piece),
                None => pending.end(),
            }
            loop {
                let (before, marker) = pending.take_before(markers);
                if let Some(last) = parts.last_mut() {
                    last.push_str(before);
                }
                let Some(marker) = marker else { break };
                parts.push(format!("{}|", markers[marker]));
            }
        }
        parts
    }

    #[test]
    fn markers_are_found_however_the_text_is_cut() {
        let cases: &[(&str, &[&str])] = &[
            ("a<b>c<d>e", &["<b>", "<d>"]),
            ("x\n</t>y</t>\n", &["</t>", "\n</t>"]),
            ("<c>thou<c>thought\nz", &["<c>", "<c>thought\n"]),
            ("aaab aab", &["aab"]),
            ("ü</ü", &["</ü>"]),
            ("abcd", &["abcx", "bc"]),
            ("plain", &[]),
        ];
        for (text, markers) in cases {
            let whole = read(&[text], markers);
            for cut in (0..=text.len()).filter(|&cut| text.is_char_boundary(cut)) {
                assert_eq!(
                    read(&[&text[..cut], &text[cut..]], markers),
                    whole,
                    "{text:?} at {cut}"
                );
            }
        }
        assert_eq!(read(&["<c>thought\nz"], &["<c>", "<c>thought\n"]), ["", "<c>thought\n|z"]);
        assert_eq!(read(&["abcd"], &["abcx", "bc"]), ["a", "bc|d"]);
    }

    #[test]
    fn only_what_may_become_a_marker_is_held_back() {
        let mut pending = Pending::default();
        pending.push("text <thi");
        assert_eq!(pending.take_before(&["<think>"]), ("text ", None));
        pending.push("s");
        assert_eq!(pending.take_before(&["<think>"]), ("<this", None));
        pending.push("<");
        assert_eq!(pending.take_before(&["<think>"]), ("", None));
        pending.end();
        assert_eq!(pending.take_before(&["<think>"]), ("<", None));
    }

    #[test]
    fn the_beginning_is_the_longest_marker_once_that_is_certain() {
        let markers = ["<c>", "<c>\n"];
        let mut pending = Pending::default();
        pending.push("<c>");
        assert_eq!(pending.beginning(&markers), Beginning::Unsure);
        pending.end();
        assert_eq!(pending.beginning(&markers), Beginning::Marker(0));
        pending.push("\n");
        assert_eq!(pending.beginning(&markers), Beginning::Marker(1));
        assert_eq!(
            Pending { ended: true, ..Pending::default() }.beginning(&markers),
            Beginning::Other
        );
    }
}
