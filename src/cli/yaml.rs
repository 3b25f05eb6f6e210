//! YAML for people and `kubectl`, made of the same values as JSON. Pure.
//!
//! Block style, two blanks a level, keys in the order of the value (alphabetical). Every text is quoted as JSON quotes it, which YAML reads
//! the same, so that no name is taken for a number, a date or a truth value.

use serde_json::Value;

/// Documents, each after a line `---`.
pub fn documents(values: &[Value]) -> String {
    values.iter().map(|value| format!("---\n{}", block(value))).collect()
}

fn block(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0);
    text
}

/// Writes a value that begins on a line of its own.
fn write(text: &mut String, value: &Value, level: usize) {
    let indent = "  ".repeat(level);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                text.push_str(&format!("{indent}{}:", key_text(key)));
                after(text, value, level);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                write(&mut inner, item, level + 1);
                // The first line of an item stands behind its dash.
                text.push_str(&format!("{indent}- {}", inner.trim_start()));
            }
        }
        scalar => text.push_str(&format!("{indent}{scalar}\n")),
    }
}

/// Writes what follows a key.
fn after(text: &mut String, value: &Value, level: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write(text, value, level + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write(text, value, level);
        }
        scalar => text.push_str(&format!(" {scalar}\n")),
    }
}

/// A key without quotes where nobody could misread it.
fn key_text(key: &str) -> String {
    let is_word = key.starts_with(|first: char| first.is_ascii_alphabetic())
        && key.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '/' | '_'))
        && !matches!(key.to_ascii_lowercase().as_str(), "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null");
    if is_word { key.to_owned() } else { Value::String(key.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_in_blocks_and_texts_in_quotes() {
        let value = json!({
            "a": {"b": "true", "c": [], "d": {}, "e": null},
            "list": ["x", {"k": 1, "l": ["y"]}, ["z"]],
            "no": "ä\n\"",
            "topology.windlass.dev/pool-1": true,
        });
        let expected = r#"---
a:
  b: "true"
  c: []
  d: {}
  e: null
list:
- "x"
- k: 1
  l:
  - "y"
- - "z"
"no": "ä\n\""
topology.windlass.dev/pool-1: true
"#;
        assert_eq!(documents(&[value]), expected);
        assert_eq!(documents(&[]), "");
    }
}
