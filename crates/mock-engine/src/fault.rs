//! Faults that a request asks for in its `x-mock-fault` header, one per request.
//!
//! They are scripted by the caller, never drawn at random: a test that fails must fail again.

use std::{str::FromStr, time::Duration};

/// The request header that names a [`Fault`].
pub const FAULT_HEADER: &str = "x-mock-fault";

/// What goes wrong with the answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `status=N`: an error object with this HTTP status (400 to 599).
    Status(u16),
    /// `hang`: no answer at all, not even headers.
    Hang,
    /// `hang-after=N`: silence after N tokens, the connection stays open.
    HangAfter(u32),
    /// `cut-after=N`: the connection breaks after N tokens.
    CutAfter(u32),
    /// `cut-inside=N`: the connection breaks after N tokens and half an event.
    CutInside(u32),
    /// `slow-header=MS`: the headers come this much later.
    SlowHeader(Duration),
    /// `malformed`: a 200 whose body is not JSON.
    Malformed,
    /// `die`: the whole process exits (code 70) before it answers.
    Die,
    /// `die-after=N`: the whole process exits after N tokens.
    DieAfter(u32),
}

/// A fault that does not exist, or has a wrong argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown fault `{0}`: status=N, hang, hang-after=N, cut-after=N, cut-inside=N, \
     slow-header=MS, malformed, die, die-after=N"
)]
pub struct FaultError(String);

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let unknown = || FaultError(text.to_owned());
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument.parse::<u32>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, argument) {
            ("status", Some(code @ 400..=599)) => Ok(Self::Status(code as u16)),
            ("hang", None) => Ok(Self::Hang),
            ("hang-after", Some(tokens)) => Ok(Self::HangAfter(tokens)),
            ("cut-after", Some(tokens)) => Ok(Self::CutAfter(tokens)),
            ("cut-inside", Some(tokens)) => Ok(Self::CutInside(tokens)),
            ("slow-header", Some(ms)) => Ok(Self::SlowHeader(Duration::from_millis(ms.into()))),
            ("malformed", None) => Ok(Self::Malformed),
            ("die", None) => Ok(Self::Die),
            ("die-after", Some(tokens)) => Ok(Self::DieAfter(tokens)),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_each_fault() {
        assert_eq!("status=503".parse(), Ok(Fault::Status(503)));
        assert_eq!("hang".parse(), Ok(Fault::Hang));
        assert_eq!("cut-after=3".parse(), Ok(Fault::CutAfter(3)));
        assert_eq!("slow-header=20".parse(), Ok(Fault::SlowHeader(Duration::from_millis(20))));
        assert_eq!("die-after=0".parse(), Ok(Fault::DieAfter(0)));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in ["", "status", "status=200", "status=70000", "hang=1", "cut-after=-1", "DIE"] {
            assert!(text.parse::<Fault>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = text.parse::<Fault>();
        }
    }
}
