//! Damage: what broken disks, foreign clients and attackers make of bytes.

use crate::random::Random;

/// What parsers trip over.
const SPLICES: [&[u8]; 26] = [
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\\u0000",
    b"1e400",
    b"-1e-400",
    b"99999999999999999999999999",
    b"-9223372036854775809",
    b"2147483648",
    b"null",
    b"{",
    b"}",
    b"[",
    b"\"",
    b"\\",
    b",",
    b":",
    b"%00",
    b"%",
    b"=",
    b";",
    b"9999-12-31T23:59:59.9999999Z",
];

/// `original` after one to four damages; `other` gives parts for splices. At most 64 KiB longer than both.
pub fn damaged(original: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(64) + 1);
        match random.below(9) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.splice(at..end, [])),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => {
                let from = random.below(other.len() + 1);
                let to = from + random.below((other.len() - from).min(512) + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let depth = *random.one_of(&[10, 127, 129, 8_000]);
                let nested: &[u8] = random.one_of::<&[u8]>(&[b"[", b"{\"a\":", b"("]);
                bytes.splice(at..at, nested.iter().copied().cycle().take(depth * nested.len()));
            }
            6 => drop(number(&mut bytes, at, random)),
            _ => drop(bytes.splice(at..end, random.one_of(&SPLICES).iter().copied())),
        }
    }
    bytes
}

/// Replaces the next number, if there is one, by one that is too large.
fn number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) -> Option<()> {
    let start = at + bytes[at..].iter().position(u8::is_ascii_digit)?;
    let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let numbers: [&[u8]; 6] = [b"1e400", b"9223372036854775808", b"4294967296", b"0.1", b"-1", b"null"];
    bytes.splice(start..end, random.one_of(&numbers).iter().copied());
    Some(())
}
