//! JSON text, as compact as can be, with members in the order in which they are written.
//!
//! Strings are escaped as Jackson does it, so that what Kafka Connect's `JsonConverter` writes can be matched to the byte.

/// An object that is being written.
pub(super) struct Object(Vec<u8>);

impl Object {
    /// An empty one, with room for what is known to come.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut text = Vec::with_capacity(bytes + 2);
        text.push(b'{');
        Self(text)
    }

    /// A member that is a string, or null.
    pub(super) fn text(&mut self, name: &str, value: Option<&str>) {
        self.name(name);
        match value {
            Some(value) => string(&mut self.0, value),
            None => self.0.extend_from_slice(b"null"),
        }
    }

    /// A member whose JSON is at hand; whoever calls this knows that it is some.
    pub(super) fn raw(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.0.extend_from_slice(json);
    }

    /// The whole text.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }

    fn name(&mut self, name: &str) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        string(&mut self.0, name);
        self.0.push(b':');
    }
}

fn string(to: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    to.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => to.extend_from_slice(b"\\\""),
            b'\\' => to.extend_from_slice(b"\\\\"),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            b'\t' => to.extend_from_slice(b"\\t"),
            0x08 => to.extend_from_slice(b"\\b"),
            0x0c => to.extend_from_slice(b"\\f"),
            0..=0x1f => {
                to.extend_from_slice(b"\\u00");
                to.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            // The bytes of longer characters are all above: they stay as they are.
            _ => to.push(byte),
        }
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_is_compact() {
        let odd = "a\"b\\c\n\r\t\u{8}\u{c}\u{1f}\u{0}é😀/";
        let mut object = Object::with_capacity(0);
        object.text("odd", Some(odd));
        object.text("none", None);
        object.raw("n", b"[1, 2]");
        let text = String::from_utf8(object.end()).unwrap();
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, serde_json::json!({"odd": odd, "none": null, "n": [1, 2]}));
        assert!(
            text.starts_with(r#"{"odd":"a\"b\\c\n\r\t\b\f\u001F\u0000é😀/","none":null,"n":[1, 2]}"#),
            "{text}"
        );
        assert_eq!(Object::with_capacity(9).end(), b"{}");
    }
}
