//! The sample activities: from a text of JSON to another. Some look for marker files, by which tests heal them.

use std::path::PathBuf;

use super::{input_or, json};
use crate::context::Failure;
use crate::uri;

/// An activity: from a text of JSON to another, or the message of an exception.
pub type Activity = fn(&Markers, Option<&str>) -> Result<Option<String>, Failure>;

/// The most KiB that `MakeBig` makes.
const MOST_KIB: u64 = 16 * 1024;
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// The folder of marker files, named by their escaped key; without a folder there are no markers.
#[derive(Debug, Clone, Default)]
pub struct Markers(pub Option<PathBuf>);

impl Markers {
    fn file(&self, key: &str) -> Option<PathBuf> {
        self.0.as_ref().map(|folder| folder.join(uri::escape(key)))
    }
}

/// `Hello <name>!`
pub fn say_hello(_: &Markers, input: Option<&str>) -> Result<Option<String>, Failure> {
    let name: String = input.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Ok(Some(json(&format!("Hello {name}!"))))
}

/// n * n
pub fn square(_: &Markers, input: Option<&str>) -> Result<Option<String>, Failure> {
    let number: i64 = input_or(input, "a number", 0)?;
    let square = number.checked_mul(number).ok_or_else(|| Failure("the square is too large".to_owned()))?;
    Ok(Some(square.to_string()))
}

/// Fails until the key's marker is there.
pub fn flaky(markers: &Markers, input: Option<&str>) -> Result<Option<String>, Failure> {
    let key = input_or(input, "a text", String::new())?;
    if markers.file(&key).is_some_and(|file| file.exists()) {
        return Ok(Some(json(&format!("healed {key}"))));
    }
    Err(Failure(format!("flaky activity: no marker for {key}")))
}

/// Fails the first time, and makes the key's marker.
pub fn fail_once(markers: &Markers, input: Option<&str>) -> Result<Option<String>, Failure> {
    let key = input_or(input, "a text", String::new())?;
    let file = markers.file(&key).ok_or_else(|| Failure("this worker has no folder of markers (--flaky-dir)".to_owned()))?;
    match std::fs::OpenOptions::new().write(true).create_new(true).open(&file) {
        Ok(_) => Err(Failure(format!("fail once: {key}"))),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Some(json(&format!("second attempt {key}")))),
        Err(error) => Err(Failure(format!("the marker cannot be made: {error}"))),
    }
}

/// Fails with an exception that has inner ones; the history row shows the outer one.
pub fn throw_nested(_: &Markers, input: Option<&str>) -> Result<Option<String>, Failure> {
    let text = input_or(input, "a text", String::new())?;
    Err(Failure(format!("outer: {text}")))
}

/// As many KiB of letters, the same ones each time, that hardly compress.
pub fn make_big(_: &Markers, input: Option<&str>) -> Result<Option<String>, Failure> {
    let kib: u64 = input_or(input, "a number of KiB", 100)?;
    if kib > MOST_KIB {
        return Err(Failure(format!("{kib} KiB are more than {MOST_KIB}")));
    }
    let mut state: u32 = 7;
    let letters = (0..kib * 1024).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(LETTERS[(state >> 26) as usize])
    });
    Ok(Some(json(&letters.collect::<String>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn big_texts_begin_as_recorded() {
        let text = make_big(&Markers::default(), Some("2")).unwrap().unwrap();
        assert_eq!(text.len(), 2 * 1024 + 2);
        assert!(text.starts_with("\"p6N7d2xde--ICJMXXAE2xEfV1wl-hDDghNXfM7rLwuGTtk3Oy_Flq6LFlBlaSWjI"), "{text}");
        assert!(make_big(&Markers::default(), Some("99999999")).is_err());
    }

    #[test]
    fn without_a_folder_nothing_is_healed() {
        assert_eq!(flaky(&Markers::default(), Some("\"k\"")), Err(Failure("flaky activity: no marker for k".into())));
        assert!(fail_once(&Markers::default(), Some("\"k\"")).is_err());
        assert_eq!(square(&Markers::default(), Some("-3")), Ok(Some("9".into())));
        assert!(square(&Markers::default(), Some("9223372036854775807")).is_err());
    }
}
