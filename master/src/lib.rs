//! The control plane behind `master://` URLs: a REST and event-stream API that creates, watches,
//! controls and persists many tunnel instances in one process.
//!
//! The crate is empty so far: the binary answers `master://` with an error that says so. What will
//! stand here, and what each part may touch, is described in the README's architecture section.
