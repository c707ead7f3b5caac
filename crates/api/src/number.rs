//! Reading integers as JSON writes them: `8` and `8.0` are the same number.
//!
//! Strings and booleans are not numbers here, although Python servers take them for one.
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;

/// Largest magnitude up to which every integer is exact as an `f64` (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A 64-bit integer that may have been written with a fraction of zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Integer(pub i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntegerVisitor;
        impl Visitor<'_> for IntegerVisitor {
            type Value = Integer;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Integer, E> {
                i64::try_from(value).map(Integer).map_err(|_| {
                    E::custom(format_args!("{value} is above the largest 64-bit integer"))
                })
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Integer, E> {
                if value.fract() == 0.0 && value.abs() <= EXACT {
                    // Exact: the magnitude is at most 2^53.
                    Ok(Integer(value as i64))
                } else {
                    Err(E::custom(format_args!("{value} is not an integer in range")))
                }
            }
        }
        deserializer.deserialize_any(IntegerVisitor)
    }
}
