use protocol::rng::Rng;
use protocol::testing::script::Script;

/// Where a plan's numbers come from.
pub(super) trait Draw {
    /// A number below `bound`.
    fn below(&mut self, bound: u32) -> u32;
}

impl Draw for Rng {
    fn below(&mut self, bound: u32) -> u32 {
        Self::below(self, bound)
    }
}

impl Draw for Script<'_> {
    fn below(&mut self, bound: u32) -> u32 {
        self.u32_below(bound)
    }
}
