//! A deterministic generator: xorshift, and the texts that tend to break things.

/// Seeded; the same seed gives the same values on every machine.
pub struct Random(u64);

/// The ends of each class of code points that some layer treats in its own way.
const EDGES: [char; 44] = [
    '\0',
    '\u{1}',
    '\u{8}',
    '\t',
    '\n',
    '\u{b}',
    '\u{c}',
    '\r',
    '\u{1f}',
    ' ',
    '"',
    '#',
    '$',
    '%',
    '&',
    '\'',
    '(',
    ')',
    '+',
    ',',
    '/',
    '0',
    '3',
    ';',
    '=',
    '?',
    '@',
    'A',
    '\\',
    '^',
    '~',
    '\u{7f}',
    '\u{80}',
    '\u{85}',
    '\u{9f}',
    '\u{a0}',
    '\u{c0}',
    '\u{15f}',
    '\u{2028}',
    '\u{2029}',
    '\u{d7ff}',
    '\u{e000}',
    '\u{ffff}',
    '\u{10ffff}',
];

impl Random {
    pub fn new(seed: u64) -> Random {
        // Xorshift never leaves zero.
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Less than `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }

    pub fn one_of<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }

    pub fn yes(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn character(&mut self) -> char {
        match self.below(4) {
            0 => char::from(b'a' + u8::try_from(self.below(26)).unwrap()),
            1 => char::from_u32(u32::try_from(self.below(0x11_0000)).unwrap()).unwrap_or('\u{10000}'),
            _ => *self.one_of(&EDGES),
        }
    }

    /// Up to `most` characters.
    pub fn text(&mut self, most: usize) -> String {
        (0..self.below(most + 1)).map(|_| self.character()).collect()
    }

    pub fn maybe<T>(&mut self, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
        self.yes().then(|| value(self))
    }
}
