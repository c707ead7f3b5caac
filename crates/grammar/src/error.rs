//! Why a grammar cannot be enforced, and why a token cannot follow.

/// Why a grammar cannot be enforced. Always the request's fault; a retry does not help, but for
/// [`GrammarError::TimedOut`] on a busy machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A keyword of a JSON schema (or a part of a regular expression or grammar) that would have
    /// to be ignored.
    #[error("`{keyword}` cannot be enforced{}", reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default())]
    Unsupported {
        /// Where, as a path into the schema (`properties.tags.uniqueItems`); empty: the whole.
        path: String,
        /// What.
        keyword: String,
        /// More, where there is more to say.
        reason: Option<String>,
    },
    /// It is no schema, regular expression or grammar, or nothing satisfies it.
    #[error("{reason}")]
    Invalid {
        /// Where, as a path into the schema; empty: the whole.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is larger than the limits allow.
    #[error("it is too large or too complex: {0}")]
    TooComplex(String),
    /// It took longer than the limits allow.
    #[error("compiling it took longer than {0} ms")]
    TimedOut(u64),
    /// A fault of ours; it costs this request only.
    #[error("compiling it failed: {0}")]
    Internal(String),
}

/// Why a matcher cannot go on. It costs its own choice only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    /// The grammar became too complex while the answer was written.
    #[error("the constraint became too complex: {0}")]
    TooComplex(String),
    /// The token may not come here.
    #[error("token {0} does not satisfy the constraint")]
    Rejected(u32),
    /// A fault of ours.
    #[error("the constraint failed: {0}")]
    Internal(String),
}
