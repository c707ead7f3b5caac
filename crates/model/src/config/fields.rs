//! Typed reading of a JSON object whose faults name the field.
//!
//! serde's derive would do, but for three habits of these files: a field that is `null` means the same
//! as one that isn't there, numbers come as 1, 1.0 or 1e6, and most fields are of no interest at all.

use serde_json::{Map, Value};

use crate::error::Malformed;

/// A JSON object, and what its fields are called in errors.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// "rope_scaling." of a nested object.
    prefix: &'static str,
}

impl<'a> Fields<'a> {
    /// The outermost object.
    pub(crate) fn new(value: &'a Value) -> Result<Self, Malformed> {
        match value {
            Value::Object(object) => Ok(Self { object, prefix: "" }),
            _ => Err(Malformed::new("file", "must be a JSON object")),
        }
    }

    /// The object in field `name`, if it is there and not empty.
    pub(crate) fn object(
        &self,
        name: &str,
        prefix: &'static str,
    ) -> Result<Option<Fields<'a>>, Malformed> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) if object.is_empty() => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object, prefix })),
            Some(_) => Err(self.fault(name, "must be an object")),
        }
    }

    /// The names of its fields that are not null.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.object.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str())
    }

    /// The field's value; `null` counts as missing.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// Whether the object has the field at all, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// A fault in field `name`.
    pub(crate) fn fault(&self, name: &str, reason: impl Into<String>) -> Malformed {
        Malformed::new(format!("{}{name}", self.prefix), reason)
    }

    /// A whole number of `1..=most`, if the field is there.
    pub(crate) fn count(&self, name: &str, most: usize) -> Result<Option<usize>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            // Some writers print every number as a float.
            let float = value.as_f64()?;
            ((0.0..1e15).contains(&float) && float.fract() == 0.0).then_some(float as u64)
        });
        match whole {
            Some(n) if n >= 1 && n <= most as u64 => Ok(Some(n as usize)),
            _ => {
                let shown = value.to_string();
                Err(self.fault(name, format!("{shown} is not a whole number of 1 to {most}")))
            }
        }
    }

    /// As [`Fields::count`], of a field that must be there.
    pub(crate) fn required_count(&self, name: &str, most: usize) -> Result<usize, Malformed> {
        self.count(name, most)?.ok_or_else(|| self.fault(name, "is missing"))
    }

    /// A finite number, if the field is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(self.fault(name, format!("{value} is not a number"))),
        }
    }

    /// As [`Fields::number`], of a field that must be there.
    pub(crate) fn required_number(&self, name: &str) -> Result<f64, Malformed> {
        self.number(name)?.ok_or_else(|| self.fault(name, "is missing"))
    }

    /// A list of finite numbers, which must be there.
    pub(crate) fn required_numbers(&self, name: &str) -> Result<Vec<f32>, Malformed> {
        let Some(value) = self.get(name) else { return Err(self.fault(name, "is missing")) };
        let number = |value: &Value| Some(value.as_f64()? as f32).filter(|x| x.is_finite());
        let list = value.as_array().and_then(|list| list.iter().map(number).collect());
        list.ok_or_else(|| self.fault(name, "must be a list of numbers"))
    }

    /// true or false, if the field is there.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.fault(name, format!("{value} is neither true nor false")))
    }

    /// A text, if the field is there.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.fault(name, format!("{value} is not a string")))
    }

    /// A list of texts, if the field is there.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.fault(name, "must be a list of strings"))
    }

    /// Token ids: one, a list, or none.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>, Malformed> {
        let ids: Option<Vec<u32>> = match self.get(name) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(token_id).collect(),
            Some(value) => token_id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.fault(name, "must be a token id or a list of them"))
    }
}

fn token_id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}
