//! The trace that a start belongs to, as W3C Trace Context writes it.
//!
//! Invariant: what is held can be parsed by any reader, the engine's included: it meets a text that is none with an
//! exception in the middle of the work.

use std::fmt;

/// The version that the specification forbids.
const NO_VERSION: u128 = 0xff;

/// A `traceparent` of version 00: which trace, which span of it is the parent, and whether it is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl TraceParent {
    /// The parent of these IDs; none if one of them is zero, which stands for no trace.
    pub fn new(trace_id: u128, span_id: u64, sampled: bool) -> Option<TraceParent> {
        (trace_id != 0 && span_id != 0).then_some(TraceParent { trace_id, span_id, sampled })
    }

    /// Reads `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, in lower case; none if it is anything else. Of a later version
    /// it takes what stands in these places, as the specification asks for. Flags but the one for sampling are dropped.
    pub fn parse(text: &str) -> Option<TraceParent> {
        let hex = |part: &str, digits: usize| {
            let all = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            if all { u128::from_str_radix(part, 16).ok() } else { None }
        };
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let (trace_id, span_id, flags) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        if version == NO_VERSION || (version == 0 && parts.next().is_some()) {
            return None;
        }
        TraceParent::new(trace_id, u64::try_from(span_id).ok()?, flags & 1 == 1)
    }

    /// The trace.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The parent span.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// True if the spans of the trace are recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }
}

/// The header's text.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_reader_takes_is_taken() {
        const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!((parent.to_string().as_str(), parent.is_sampled()), (GOOD, true));
        assert_eq!(parent.trace_id(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert!(!TraceParent::parse(&GOOD.replace("-01", "-02")).unwrap().is_sampled());
        for later in
            ["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x-y"]
        {
            assert_eq!(TraceParent::parse(later), Some(parent), "{later}");
        }
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033310-1",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }
}
