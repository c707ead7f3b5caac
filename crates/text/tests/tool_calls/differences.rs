//! Recorded answers that we read otherwise, each with the reason. The list is exact: one that
//! agrees after all fails the test.

/// The case, and why it differs.
pub(super) const DIFFERENCES: &[(&str, &str)] = &[];
