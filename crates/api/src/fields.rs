//! Request structs that share fields and still name the path of a mistake.
//!
//! Chat and legacy completions have some fifty fields in common. Serde's `flatten` would share them,
//! but it buffers the whole request and loses every path; so this macro writes the struct and a
//! function that reads one field straight from the map, and structs are composed from those.

/// Declares a struct of request fields, all of which have a default, and its `read_field`.
/// With `includes part: Part;` the struct also holds `Part`, and keys it does not know go there;
/// such a struct is a whole request and implements `Deserialize`. Unknown keys are ignored, and of
/// a key that comes twice the last value counts, as in Python.
macro_rules! request_fields {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])* pub $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
        }

        impl $name {
            /// Reads the value of `key` where it is a field of this struct; says whether it was.
            pub(crate) fn read_field<'de, A: serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut A,
            ) -> Result<bool, A::Error> {
                match key {
                    $( stringify!($field) => self.$field = map.next_value()?, )*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
    (
        $(#[$meta:meta])*
        pub struct $name:ident includes $part:ident: $part_type:ty {
            $( $(#[doc = $doc:literal])* pub $field:ident: $type:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])* pub $field: $type, )*
            /// The fields that chat and legacy completions share.
            pub $part: $part_type,
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct RequestVisitor;
                impl<'de> serde::de::Visitor<'de> for RequestVisitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a request object")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> Result<$name, A::Error> {
                        let mut request = $name::default();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $( stringify!($field) => request.$field = map.next_value()?, )*
                                other => {
                                    if !request.$part.read_field(other, &mut map)? {
                                        map.next_value::<serde::de::IgnoredAny>()?;
                                    }
                                }
                            }
                        }
                        Ok(request)
                    }
                }
                deserializer.deserialize_map(RequestVisitor)
            }
        }
    };
}
pub(crate) use request_fields;
