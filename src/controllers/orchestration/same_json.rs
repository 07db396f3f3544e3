//! Whether two JSON texts are the same value (product.md 3.1). Pure.

use serde_json::Value;

/// True if both texts are the same value: order of keys, white space and the notation of numbers do not matter.
///
/// What nests too deep to be parsed is the same only to the letter.
pub fn same_json(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match (serde_json::from_str::<Value>(a), serde_json::from_str::<Value>(b)) {
        (Ok(a), Ok(b)) => same(&a, &b),
        _ => false,
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || (a.as_f64() == b.as_f64() && !(a.is_i64() && b.is_i64()) && !(a.is_u64() && b.is_u64()))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b))),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_and_not_texts() {
        for (a, b) in [("1", "1.0"), ("1", "1e0"), (r#"{"a":1,"b":[2]}"#, r#"{ "b": [2.0], "a": 1 }"#), (r#""é""#, r#""\u00e9""#)] {
            assert!(same_json(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("1", "2"),
            ("9007199254740993", "9007199254740992"),
            ("1", "\"1\""),
            ("[1,2]", "[2,1]"),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
            ("null", "0"),
        ] {
            assert!(!same_json(a, b), "{a} {b}");
        }
    }
}
