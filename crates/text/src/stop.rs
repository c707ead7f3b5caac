//! Stop strings over token borders.

/// What a push found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopOutcome {
    /// No stop string ended here.
    Continue,
    /// Stop string number `index` matched; the text before it (and it, if included) has been emitted.
    Matched {
        /// Which.
        index: usize,
    },
}

/// Withholds exactly the text that is a proper prefix of a stop string.
pub struct StopMatcher {}

impl StopMatcher {
    /// A matcher for `stops` (none empty). `include`: emit the matched stop string too.
    pub fn new(stops: &[String], include: bool) -> Self {
        let _ = (stops, include);
        Self {}
    }
    /// Feeds text; appends to `out` what may be sent.
    pub fn push(&mut self, text: &str, out: &mut String) -> StopOutcome {
        let _ = (text, out);
        todo!()
    }
    /// No more text: appends what was withheld.
    pub fn finish(&mut self, out: &mut String) {
        let _ = out;
        todo!()
    }
}
