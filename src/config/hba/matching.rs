//! Which rule holds for a connection: the first that fits (PostgreSQL: `check_hba()`).

use std::net::IpAddr;

use super::rule::{Addresses, DatabaseWord, Hba, Kind, Rule};

/// Who wants in.
pub struct Caller<'a> {
    /// The database it asked for.
    pub database: &'a str,
    /// Whom it says it is.
    pub user: &'a str,
    /// Whether it wants the write-ahead log of the whole cluster, and no database.
    pub replication: bool,
    /// How it came.
    pub origin: Origin,
    /// Whether the user is this role, or a member of it, directly or not.
    pub member_of: &'a dyn Fn(&str) -> bool,
}

/// How a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a Unix socket.
    Local,
    /// By TCP.
    Host {
        /// From where.
        address: IpAddr,
        /// Whether it speaks TLS.
        tls: bool,
        /// Whether that is an address of this machine.
        same_host: bool,
    },
}

impl Hba {
    /// The rule that decides; `None` when none fits, and the client may not come in.
    #[must_use]
    pub fn rule_for(&self, caller: &Caller<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(caller))
    }
}

impl Rule {
    fn fits(&self, caller: &Caller<'_>) -> bool {
        self.fits_origin(caller.origin)
            && self.databases.iter().any(|word| word.fits(caller))
            && self.users.iter().any(|word| word.matches(caller.user, caller.member_of))
    }

    fn fits_origin(&self, origin: Origin) -> bool {
        match (self.kind, origin) {
            (Kind::Local, Origin::Local) => true,
            (Kind::Local, Origin::Host { .. }) | (_, Origin::Local) | (Kind::HostGssenc, _) => false,
            (Kind::HostSsl, Origin::Host { tls: false, .. }) | (Kind::HostNoSsl, Origin::Host { tls: true, .. }) => {
                false
            }
            (
                Kind::Host | Kind::HostSsl | Kind::HostNoSsl | Kind::HostNoGssenc,
                Origin::Host { address, same_host, .. },
            ) => match self.address {
                Addresses::All => true,
                Addresses::SameHost => same_host,
                Addresses::Network { address: network, mask } => within(address, network, mask),
            },
        }
    }
}

impl DatabaseWord {
    fn fits(&self, caller: &Caller<'_>) -> bool {
        if caller.replication {
            return *self == Self::Replication;
        }
        match self {
            Self::All => true,
            Self::SameUser => caller.database == caller.user,
            Self::SameRole => (caller.member_of)(caller.database),
            Self::Replication => false,
            Self::Name(name) => name == caller.database,
            Self::Pattern(pattern) => pattern.is_match(caller.database),
        }
    }
}

/// IPv4 addresses that came by an IPv6 socket are IPv4 addresses.
fn within(address: IpAddr, network: IpAddr, mask: IpAddr) -> bool {
    match (address.to_canonical(), network, mask) {
        (IpAddr::V4(address), IpAddr::V4(network), IpAddr::V4(mask)) => {
            (address.to_bits() ^ network.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network), IpAddr::V6(mask)) => {
            (address.to_bits() ^ network.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn line_for(text: &str, origin: Origin, database: &str, user: &str, replication: bool) -> Option<usize> {
        let hba = Hba::parse(text, Path::new("hba"), &|_| Err("no".to_owned())).unwrap();
        let member_of = |group: &str| group == user || (user == "bob" && matches!(group, "staff" | "people"));
        hba.rule_for(&Caller { database, user, replication, origin, member_of: &member_of }).map(|rule| rule.line)
    }

    fn tcp(address: &str, tls: bool) -> Origin {
        Origin::Host { address: address.parse().unwrap(), tls, same_host: address == "127.0.0.1" }
    }

    #[test]
    fn the_first_line_that_fits_decides() {
        let text = "local all all trust\nhostssl all all 10.0.0.0/8 md5\nhostnossl app all 10.0.0.0/8 reject\n\
                    host all all samehost trust\nhostgssenc all all all trust\nhostnogssenc all all ::/0 md5\n";
        assert_eq!(line_for(text, Origin::Local, "app", "bob", false), Some(1));
        assert_eq!(line_for(text, tcp("10.9.8.7", true), "app", "bob", false), Some(2));
        assert_eq!(line_for(text, tcp("::ffff:10.9.8.7", true), "app", "bob", false), Some(2));
        assert_eq!(line_for(text, tcp("10.9.8.7", false), "app", "bob", false), Some(3));
        assert_eq!(line_for(text, tcp("10.9.8.7", false), "other", "bob", false), None);
        assert_eq!(line_for(text, tcp("127.0.0.1", false), "x", "bob", false), Some(4));
        assert_eq!(line_for(text, tcp("2001:db8::1", false), "x", "bob", false), Some(6));
        assert_eq!(line_for(text, tcp("11.0.0.1", false), "app", "bob", false), None);
    }

    #[test]
    fn databases_and_users_are_words_with_a_meaning() {
        let from = tcp("192.0.2.1", false);
        let text = "host sameuser all all md5\nhost samerole all all md5\nhost \"all\" \"all\" all md5\n\
                    host /^app_[0-9]+$ /^b all md5\nhost replication repl all md5\nhost x +people all md5\n";
        assert_eq!(line_for(text, from, "bob", "bob", false), Some(1));
        assert_eq!(line_for(text, from, "staff", "bob", false), Some(2));
        assert_eq!(line_for(text, from, "all", "all", false), Some(1));
        assert_eq!(line_for(text, from, "all", "bob", false), None);
        assert_eq!(line_for(text, from, "app_12", "bob", false), Some(4));
        assert_eq!(line_for(text, from, "app_12", "ann", false), None);
        assert_eq!(line_for(text, from, "app_12x", "bob", false), None);
        assert_eq!(line_for(text, from, "x", "bob", false), Some(6));
        assert_eq!(line_for(text, from, "replication", "repl", false), None);
        assert_eq!(line_for(text, from, "repl", "repl", true), Some(5));
        assert_eq!(line_for("host all all all md5", from, "", "repl", true), None);
    }

    proptest! {
        #[test]
        fn a_prefix_fits_exactly_the_addresses_that_share_it(address: u32, other: u32, bits in 0_u32..=32) {
            let network = std::net::Ipv4Addr::from_bits(address);
            let text = format!("host all all {network}/{bits} md5");
            let origin = Origin::Host { address: IpAddr::V4(other.into()), tls: false, same_host: false };
            let same = bits == 0 || address >> (32 - bits) == other >> (32 - bits);
            prop_assert_eq!(line_for(&text, origin, "d", "u", false).is_some(), same);
        }
    }
}
