//! JSON values that know where they stand, so that an error can say it.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ConfigError;

/// A whole file.
pub(super) struct Document<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

/// A value in it, and the way there.
pub(super) struct Node<'a> {
    document: &'a Document<'a>,
    raw: &'a RawValue,
    /// Such as `object.Servers[1].url`; empty at the top.
    field: String,
}

impl<'a> Document<'a> {
    /// The outermost value. Checks the syntax of all of it.
    pub(super) fn root(&'a self) -> Result<Node<'a>, ConfigError> {
        match serde_json::from_str(self.text) {
            Ok(raw) => Ok(Node { document: self, raw, field: String::new() }),
            Err(error) => Err(ConfigError::Syntax {
                path: self.path.to_owned(),
                line: error.line(),
                column: error.column(),
                problem: without_position(&error),
            }),
        }
    }
}

impl<'a> Node<'a> {
    /// Something is wrong with this value.
    pub(super) fn error(&self, problem: &str) -> ConfigError {
        self.error_at(&self.field, problem)
    }

    fn error_at(&self, field: &str, problem: &str) -> ConfigError {
        // The raw text is a slice of the file's text, so its place is the
        // difference of the two addresses.
        let offset = self.raw.get().as_ptr().addr() - self.document.text.as_ptr().addr();
        let before = &self.document.text.as_bytes()[..offset];
        ConfigError::Field {
            path: self.document.path.to_owned(),
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
            field: if field.is_empty() { "the file".to_owned() } else { field.to_owned() },
            problem: problem.to_owned(),
        }
    }

    fn read<T: Deserialize<'a>>(&self, expected: &str) -> Result<T, ConfigError> {
        serde_json::from_str(self.raw.get())
            .map_err(|_| self.error(&format!("expected {expected}, found {}", self.shown())))
    }

    /// The value, cut to what fits into a message.
    fn shown(&self) -> String {
        let text = self.raw.get();
        match text.char_indices().nth(40) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None => text.to_owned(),
        }
    }

    /// The fields of an object, in their order; one that is there twice is an error.
    pub(super) fn fields(&self) -> Result<Vec<(String, Node<'a>)>, ConfigError> {
        let Fields(fields) = self.read("an object")?;
        let mut nodes: Vec<(String, Node<'a>)> = Vec::with_capacity(fields.len());
        for (name, raw) in fields {
            let field =
                if self.field.is_empty() { name.clone() } else { format!("{}.{name}", self.field) };
            let node = Node { document: self.document, raw, field };
            if nodes.iter().any(|(other, _)| *other == name) {
                return Err(node.error("is there twice; remove one"));
            }
            nodes.push((name, node));
        }
        Ok(nodes)
    }

    /// A field of an object, if it is there.
    pub(super) fn optional(&self, name: &str) -> Result<Option<Node<'a>>, ConfigError> {
        let fields = self.fields()?;
        Ok(fields.into_iter().find(|(other, _)| other == name).map(|(_, node)| node))
    }

    /// A field of an object.
    pub(super) fn required(&self, name: &str) -> Result<Node<'a>, ConfigError> {
        let missing = || self.error_at(&format!("{}.{name}", self.field), "is missing");
        self.optional(name)?.ok_or_else(missing)
    }

    /// The items of an array.
    pub(super) fn items(&self) -> Result<Vec<Node<'a>>, ConfigError> {
        let items: Vec<&'a RawValue> = self.read("an array")?;
        let node = |(index, raw)| Node {
            document: self.document,
            raw,
            field: format!("{}[{index}]", self.field),
        };
        Ok(items.into_iter().enumerate().map(node).collect())
    }

    /// A whole number from 0 on.
    pub(super) fn unsigned(&self) -> Result<u64, ConfigError> {
        self.read("a whole number from 0 on")
    }

    /// `"ip:port"`
    pub(super) fn address(&self) -> Result<SocketAddr, ConfigError> {
        let text: String = self.read("an address as \"ip:port\"")?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(self.error("port 0 is no address that others can reach"));
            }
            return Ok(address);
        }
        let port = text.rsplit_once(':').map_or("", |(_, port)| port);
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && port.parse::<u16>().is_err() {
            return Err(self.error(&format!("port {port} is above 65535")));
        }
        Err(self.error(&format!("expected an address as \"ip:port\", found {}", self.shown())))
    }
}

/// The JSON reader counts lines from wherever it was started and says so in
/// its text; the place stands elsewhere in the message.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// An object's fields in their order, duplicates included.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<'a>(PhantomData<&'a ()>);

        impl<'de> Visitor<'de> for InOrder<'de> {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}
