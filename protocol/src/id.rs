//! Ids that machines mint for things the driver holds. Never reused; a stale one is ignored.

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id with this number, for drivers that keep ids in tables of their own.
            #[must_use]
            pub const fn from_number(number: u64) -> Self {
                Self(number)
            }

            /// The id's number, unique among ids of its kind within one machine.
            #[must_use]
            pub const fn number(self) -> u64 {
                self.0
            }
        }
    )+};
}

ids! {
    /// A connection at the tunnel port: one in handshake, a control or a data connection.
    ConnId,
    /// A user: a user's TCP connection, or a UDP session (one user address).
    UserId,
    /// A session as the server's machines know it; on the wire it is a
    /// [`SessionId`](crate::terms::SessionId).
    LinkId,
}

/// Mints ids of one kind, in order, starting at 1.
#[derive(Clone, Debug, Default)]
pub struct Mint(u64);

impl Mint {
    /// The next number, never handed out before.
    pub const fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}
