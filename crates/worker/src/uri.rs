//! The escaping of .NET's `Uri.EscapeDataString`, in which URLs of blobs and names of marker files are written. Pure.

use std::fmt::Write as _;

/// Everything but the unreserved characters as `%XX` of its UTF-8 bytes (task-hub.md 4.5).
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_the_specification() {
        assert_eq!(escape("o'brien % é 日本"), "o%27brien%20%25%20%C3%A9%20%E6%97%A5%E6%9C%AC");
        assert_eq!(escape("a^0b-_.~@k"), "a%5E0b-_.~%40k");
    }
}
