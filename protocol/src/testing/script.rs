//! A scenario read from bytes: any bytes are one, and a short input is a short one.

use crate::time::Duration;

/// Reads values from the front of the input; past its end, everything is zero or empty.
#[derive(Clone, Debug)]
pub struct Script<'a> {
    bytes: &'a [u8],
}

impl<'a> Script<'a> {
    /// The scenario that `bytes` describe.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether the scenario is over: the condition of every loop over steps.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// A number below `bound` (0 if `bound` is 0), from one byte if that is enough, else from four.
    pub fn u32_below(&mut self, bound: u32) -> u32 {
        let drawn = if bound <= 256 {
            u32::from(self.u8())
        } else {
            self.u32()
        };
        drawn.checked_rem(bound).unwrap_or(0)
    }

    /// The lowest bit of one byte.
    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// The next `n` bytes, fewer at the end.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, left) = self.bytes.split_at(n.min(self.bytes.len()));
        self.bytes = left;
        taken
    }

    /// The next `N` bytes, zeros at the end.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (slot, byte) in array.iter_mut().zip(self.bytes(N)) {
            *slot = *byte;
        }
        array
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    /// From zero to some days: a byte for the scale and one for the amount, so that milliseconds,
    /// seconds and minutes come up equally often.
    pub fn duration(&mut self) -> Duration {
        let scale = 1_u64 << (2 * self.u32_below(11));
        Duration::from_millis(u64::from(self.u8()) * scale)
    }

    /// Takes `bytes` apart into pieces whose lengths (1 to 256) the script says; the last one takes
    /// all once the script is over.
    pub fn pieces<'b>(&mut self, mut bytes: &'b [u8]) -> alloc::vec::Vec<&'b [u8]> {
        let mut pieces = alloc::vec::Vec::new();
        while !bytes.is_empty() {
            let len = match self.is_empty() {
                true => bytes.len(),
                false => bytes.len().min(usize::from(self.u8()) + 1),
            };
            let (piece, left) = bytes.split_at(len);
            pieces.push(piece);
            bytes = left;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_input_is_a_short_script() {
        let mut script = Script::new(&[1, 2, 3, 4, 5]);
        assert_eq!(script.u16(), 0x0102);
        assert_eq!(script.u32(), 0x0304_0500);
        assert!(script.is_empty());
        assert_eq!(
            (script.u8(), script.bool(), script.rest()),
            (0, false, &[][..])
        );
        assert_eq!(script.duration(), Duration::ZERO);
        assert_eq!(script.bytes(9), b"");
    }

    #[test]
    fn bounds_hold() {
        for byte in 0..=255 {
            assert!(Script::new(&[byte]).u32_below(7) < 7);
            assert_eq!(Script::new(&[byte]).u32_below(0), 0);
            assert!(Script::new(&[byte; 4]).u32_below(1000) < 1000);
        }
    }

    #[test]
    fn pieces_are_the_whole() {
        let pieces = Script::new(&[0, 2]).pieces(b"abcdefgh");
        assert_eq!(pieces, [&b"a"[..], b"bcd", b"efgh"]);
    }
}
