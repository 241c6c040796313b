//! What a line of `pg_hba.conf` means (PostgreSQL: `parse_hba_line()`).

use std::net::IpAddr;
use std::path::Path;

use super::words::{self, Line, Reader, Word};
use super::{Fault, Pattern, UserWord};

/// The rules of a file, in its order: the first that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hba {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it is written.
    pub line: usize,
    /// How the client must have come.
    pub kind: Kind,
    /// The databases; one must fit.
    pub databases: Vec<DatabaseWord>,
    /// The users; one must fit.
    pub users: Vec<UserWord>,
    /// From where; only for those that come by TCP.
    pub address: Addresses,
    /// What the client must show.
    pub method: Method,
    /// `map=`: the part of the ident file that holds.
    pub map: Option<String>,
    /// `clientcert=`
    pub client_cert: ClientCert,
}

/// The first column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Unix socket.
    Local,
    /// TCP.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
    /// TCP with GSSAPI encryption, which howdah does not speak: nobody.
    HostGssenc,
    /// TCP without it: everybody who comes by TCP.
    HostNoGssenc,
}

/// A word in the column of databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseWord {
    /// `all`, which physical replication is not.
    All,
    /// `sameuser`
    SameUser,
    /// `samerole`, `samegroup`: the user is a member of the role that is named as the database.
    SameRole,
    /// `replication`: physical replication, which has no database.
    Replication,
    /// A name.
    Name(String),
    /// `/pattern`
    Pattern(Pattern),
}

/// The column of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// `all`, and Unix sockets, which have none.
    All,
    /// A network.
    Network {
        /// Its address.
        address: IpAddr,
        /// The bits of it that count.
        mask: IpAddr,
    },
    /// `samehost`: an address of this machine.
    SameHost,
}

/// What a client must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing.
    Trust,
    /// It may not come in.
    Reject,
    /// The password, without sending it.
    ScramSha256,
    /// The password: SCRAM where the stored secret is SCRAM's, md5 where it is md5's.
    Md5,
    /// A certificate that names the user.
    Cert,
    /// To be the user of the operating system.
    Peer,
}

/// What a client's certificate must be, beside what the method asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// It need not have one.
    #[default]
    Ignored,
    /// `verify-ca`: signed by the listener's `ca`.
    VerifyCa,
    /// `verify-full`: and its name is the user's.
    VerifyFull,
}

/// What is wrong, and what to write.
type Wrong = (String, String);

impl Hba {
    /// Reads a file.
    ///
    /// # Errors
    /// Every line that means nothing, with what to write.
    pub fn parse(text: &str, path: &Path, reader: Reader<'_>) -> Result<Self, Vec<Fault>> {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for line in words::lines(text, path, reader)? {
            match rule(&line) {
                Ok(rule) => rules.push(rule),
                Err((message, advice)) => faults.push(Fault::new(path, line.number, message, advice)),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        if rules.is_empty() {
            let advice = "write one, as in: host all all all scram-sha-256";
            return Err(vec![Fault::new(path, 1, "the file has no rule: nobody could connect", advice)]);
        }
        Ok(Self { rules })
    }

    /// Whether a rule asks for the groups of a user.
    #[must_use]
    pub fn asks_for_groups(&self) -> bool {
        self.rules.iter().any(|rule| {
            rule.databases.contains(&DatabaseWord::SameRole)
                || rule.users.iter().any(|user| matches!(user, UserWord::Group(_)))
        })
    }

    /// Whether a rule asks whether a client comes from this machine.
    #[must_use]
    pub fn asks_for_same_host(&self) -> bool {
        self.rules.iter().any(|rule| rule.address == Addresses::SameHost)
    }
}

fn wrong<T>(message: impl Into<String>, advice: impl Into<String>) -> Result<T, Wrong> {
    Err((message.into(), advice.into()))
}

fn rule(line: &Line) -> Result<Rule, Wrong> {
    let mut fields = line.fields.iter().map(Vec::as_slice);
    let mut next =
        |what: &str| fields.next().ok_or_else(|| (format!("the line ends before its {what}"), FORM.to_owned()));
    let kind = kind(single(next("type")?, "type")?)?;
    let databases = next("database")?.iter().map(database).collect::<Result<_, _>>()?;
    let users =
        next("user")?.iter().map(UserWord::of).collect::<Result<_, _>>().map_err(|message| (message, String::new()))?;
    let address = match kind {
        Kind::Local => Addresses::All,
        _ => addresses(single(next("address")?, "address")?, || single(next("netmask")?, "netmask"))?,
    };
    let method_word = single(next("method")?, "method")?;
    let method = method(method_word, kind)?;
    let mut rule = Rule {
        line: line.number,
        kind,
        databases,
        users,
        address,
        method,
        map: None,
        client_cert: if method == Method::Cert { ClientCert::VerifyFull } else { ClientCert::Ignored },
    };
    for word in fields.flatten() {
        option(&mut rule, &word.text)?;
    }
    Ok(rule)
}

const FORM: &str =
    "write TYPE DATABASE USER ADDRESS METHOD, as in: host all all 10.0.0.0/8 scram-sha-256 (local has no address)";

fn single<'w>(words: &'w [Word], what: &str) -> Result<&'w Word, Wrong> {
    match words {
        [word] => Ok(word),
        _ => wrong(format!("more than one {what}"), "write a line for each"),
    }
}

fn kind(word: &Word) -> Result<Kind, Wrong> {
    Ok(match word.text.as_str() {
        "local" => Kind::Local,
        "host" => Kind::Host,
        "hostssl" => Kind::HostSsl,
        "hostnossl" => Kind::HostNoSsl,
        "hostgssenc" => Kind::HostGssenc,
        "hostnogssenc" => Kind::HostNoGssenc,
        "include" | "include_if_exists" | "include_dir" => {
            return wrong(format!("\"{}\" is not supported", word.text), "write its lines into this file");
        }
        other => {
            return wrong(
                format!("\"{other}\" is no type of connection"),
                "valid: local, host, hostssl, hostnossl, hostgssenc, hostnogssenc",
            );
        }
    })
}

fn database(word: &Word) -> Result<DatabaseWord, Wrong> {
    if let Some(pattern) = Pattern::of(word) {
        return pattern.map(DatabaseWord::Pattern).map_err(|message| (message, String::new()));
    }
    Ok(match word.text.as_str() {
        "all" if !word.quoted => DatabaseWord::All,
        "sameuser" if !word.quoted => DatabaseWord::SameUser,
        "samerole" | "samegroup" if !word.quoted => DatabaseWord::SameRole,
        "replication" if !word.quoted => DatabaseWord::Replication,
        name => DatabaseWord::Name(name.to_owned()),
    })
}

fn addresses<'w>(word: &'w Word, mask: impl FnOnce() -> Result<&'w Word, Wrong>) -> Result<Addresses, Wrong> {
    match word.text.as_str() {
        "all" if !word.quoted => return Ok(Addresses::All),
        "samehost" if !word.quoted => return Ok(Addresses::SameHost),
        "samenet" if !word.quoted => {
            return wrong("\"samenet\" is not supported", "write the network, as in 10.0.0.0/8");
        }
        _ => {}
    }
    let (address, bits) = match word.text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (word.text.as_str(), None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        let advice = "write an address with its mask (10.0.0.0/8, ::1/128), all or samehost";
        return wrong(format!("\"{}\" is no address: host names are not looked up", word.text), advice);
    };
    let whole: u32 = if address.is_ipv4() { 32 } else { 128 };
    let mask = match bits {
        // the parser of numbers would take "+8"
        Some(bits) => match bits.parse::<u32>() {
            Ok(count) if count <= whole && bits.bytes().all(|b| b.is_ascii_digit()) => mask_of(address, count),
            _ => return wrong(format!("\"{bits}\" is no length of a mask"), format!("valid: 0 to {whole}")),
        },
        None => {
            let word = mask()?;
            match word.text.parse::<IpAddr>() {
                Ok(mask) if mask.is_ipv4() == address.is_ipv4() => mask,
                Ok(_) => {
                    return wrong("address and mask are of different kinds", "write both as IPv4, or both as IPv6");
                }
                Err(_) => {
                    let advice = format!("write it behind the address, as in {address}/{whole}");
                    return wrong(format!("\"{}\" is no mask", word.text), advice);
                }
            }
        }
    };
    Ok(Addresses::Network { address, mask })
}

/// A mask of so many leading bits, which are not more than the address has.
fn mask_of(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0).into()),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0).into()),
    }
}

fn method(word: &Word, kind: Kind) -> Result<Method, Wrong> {
    let method = match word.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "scram-sha-256" => Method::ScramSha256,
        "md5" => Method::Md5,
        "cert" => Method::Cert,
        "peer" => Method::Peer,
        // what PostgreSQL makes of it
        "ident" if kind == Kind::Local => Method::Peer,
        "password" => {
            let advice = "write scram-sha-256, which every stored password but md5's serves, or md5";
            return wrong("method \"password\" sends the password in clear text", advice);
        }
        other @ ("gss" | "sspi" | "ident" | "pam" | "bsd" | "ldap" | "radius" | "oauth") => {
            return wrong(format!("method \"{other}\" is not supported"), METHODS);
        }
        other => return wrong(format!("\"{other}\" is no method"), METHODS),
    };
    match (method, kind) {
        (Method::Peer, Kind::Local) | (Method::Cert, Kind::HostSsl) => Ok(method),
        (Method::Peer, _) => wrong("method \"peer\" is for Unix sockets", "write local, or another method"),
        (Method::Cert, _) => wrong("method \"cert\" is for connections with TLS", "write hostssl, or another method"),
        _ => Ok(method),
    }
}

const METHODS: &str = "valid: scram-sha-256, md5, cert, peer, trust, reject";

fn option(rule: &mut Rule, text: &str) -> Result<(), Wrong> {
    let Some((name, value)) = text.split_once('=') else {
        return wrong(format!("\"{text}\" is no option"), "write name=value, as in map=people");
    };
    match name {
        "map" if matches!(rule.method, Method::Cert | Method::Peer) => rule.map = Some(value.to_owned()),
        "map" => return wrong("\"map\" is for the methods cert and peer", "remove it"),
        "clientcert" if rule.kind != Kind::HostSsl => {
            return wrong("\"clientcert\" is for connections with TLS", "write hostssl");
        }
        "clientcert" => {
            rule.client_cert = match value {
                "verify-full" => ClientCert::VerifyFull,
                "verify-ca" if rule.method == Method::Cert => {
                    return wrong(
                        "method \"cert\" compares the name anyway",
                        "write clientcert=verify-full, or nothing",
                    );
                }
                "verify-ca" => ClientCert::VerifyCa,
                _ => return wrong(format!("\"{value}\" is no value of clientcert"), "valid: verify-ca, verify-full"),
            }
        }
        "clientname" if value == "CN" && rule.kind == Kind::HostSsl => {}
        "clientname" => {
            return wrong(
                "only the common name of a certificate is compared",
                "write clientname=CN on a hostssl line, or nothing",
            );
        }
        _ => return wrong(format!("\"{name}\" is no option here"), "valid: map, clientcert, clientname"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Hba, Vec<Fault>> {
        Hba::parse(text, Path::new("hba"), &|_| Err("no".to_owned()))
    }

    fn said(text: &str) -> String {
        parse(text).unwrap_err().first().unwrap().to_string()
    }

    #[test]
    fn a_line_becomes_a_rule() {
        let text = "# comment\nhostssl app,\"all\" +staff,bob 10.1.0.0/16 cert map=people clientname=CN\n\
                    local sameuser all peer\nhost samerole,replication \"+x\" ::1 ffff:: md5\n";
        let hba = parse(text).unwrap();
        let [first, second, third] = &hba.rules[..] else { panic!("{hba:?}") };
        assert_eq!((first.line, first.kind, first.method), (2, Kind::HostSsl, Method::Cert));
        assert_eq!(first.databases, [DatabaseWord::Name("app".into()), DatabaseWord::Name("all".into())]);
        assert_eq!(first.users, [UserWord::Group("staff".into()), UserWord::Name("bob".into())]);
        let (address, mask) = ("10.1.0.0".parse().unwrap(), "255.255.0.0".parse().unwrap());
        assert_eq!(first.address, Addresses::Network { address, mask });
        assert_eq!((first.map.as_deref(), first.client_cert), (Some("people"), ClientCert::VerifyFull));
        assert_eq!((second.method, &second.databases[..]), (Method::Peer, &[DatabaseWord::SameUser][..]));
        assert_eq!(third.databases, [DatabaseWord::SameRole, DatabaseWord::Replication]);
        assert_eq!(third.users, [UserWord::Name("+x".into())]);
        assert!(hba.asks_for_groups() && !hba.asks_for_same_host());
        assert!(!parse("host all all samehost trust").unwrap().asks_for_groups());
    }

    #[test]
    fn a_wrong_line_says_where_it_is_and_what_to_write() {
        for (text, expected) in [
            ("\n\nlocla all all trust", "hba:3: \"locla\" is no type of connection; valid: local, host,"),
            ("host all all", "hba:1: the line ends before its address; write TYPE DATABASE"),
            ("host all all 10.0.0.1 trust", "\"trust\" is no mask; write it behind the address, as in 10.0.0.1/32"),
            ("host all all 10.0.0.0/33 trust", "\"33\" is no length of a mask; valid: 0 to 32"),
            ("host all all 10.0.0.0/+8 trust", "\"+8\" is no length of a mask"),
            ("host all all db.example trust", "host names are not looked up"),
            ("host all all samenet trust", "\"samenet\" is not supported; write the network"),
            ("host all all ::1 255.0.0.0 trust", "of different kinds"),
            ("host all all all password", "in clear text; write scram-sha-256"),
            ("host all all all ldap ldapserver=x", "method \"ldap\" is not supported; valid: scram-sha-256"),
            ("host all all all scram", "\"scram\" is no method"),
            ("host all all all peer", "for Unix sockets"),
            ("host all all all cert", "with TLS; write hostssl"),
            ("host all all all md5 map=x", "\"map\" is for the methods cert and peer"),
            ("host all all all md5 clientcert=verify-ca", "write hostssl"),
            ("hostssl all all all md5 clientcert=1", "valid: verify-ca, verify-full"),
            ("hostssl all all all cert clientcert=verify-ca", "compares the name anyway"),
            ("hostssl all all all cert clientname=DN", "only the common name"),
            ("host all all all md5 x", "\"x\" is no option; write name=value"),
            ("host all /( all md5", "is not a regular expression"),
            ("host,local all all all md5", "more than one type"),
            ("include other.conf", "write its lines into this file"),
            ("# nothing", "nobody could connect"),
        ] {
            let said = said(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn all_wrong_lines_are_reported_at_once() {
        let faults = parse("host all all all trusty\nlocal all all trust\nhost all\n").unwrap_err();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [1, 3]);
    }
}
