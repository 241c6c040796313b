//! What we must know of a certificate and rustls does not tell: its hash for channel binding, its dates, and whose it is.
//!
//! Reads as much DER as that takes, with every length checked against what is there; anything odd is `None`. Not here:
//! whether a certificate is to be trusted.

use std::ops::RangeInclusive;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, constructed: the version of a certificate, the hash of RSASSA-PSS.
const CONTEXT_0: u8 = 0xa0;

/// What `tls-server-end-point` binds to (RFC 5929 section 4.1): the certificate, hashed as its signature is; SHA-256 for
/// MD5 and SHA-1.
///
/// `None` where no hash is defined (Ed25519, unknown algorithms); PostgreSQL and libpq do not bind then either.
#[must_use]
pub fn end_point_hash(cert_der: &[u8]) -> Option<Vec<u8>> {
    let (_, algorithm) = parts(cert_der)?;
    match hash_of(algorithm)? {
        Hash::Sha224 => Some(Sha224::digest(cert_der).to_vec()),
        Hash::Sha256 => Some(Sha256::digest(cert_der).to_vec()),
        Hash::Sha384 => Some(Sha384::digest(cert_der).to_vec()),
        Hash::Sha512 => Some(Sha512::digest(cert_der).to_vec()),
    }
}

/// When a certificate is valid, in seconds since 1970 (RFC 5280 section 4.1.2.5).
#[must_use]
pub fn validity(cert_der: &[u8]) -> Option<RangeInclusive<i64>> {
    let (mut tbs, _) = parts(cert_der)?;
    if tbs.0.first() == Some(&CONTEXT_0) {
        tbs.next(CONTEXT_0)?;
    }
    tbs.next(INTEGER)?; // serial number
    tbs.next(SEQUENCE)?; // signature algorithm
    tbs.next(SEQUENCE)?; // issuer
    let mut dates = Der(tbs.next(SEQUENCE)?);
    Some(dates.time()?..=dates.time()?)
}

/// The first common name of a certificate's subject, as `ssl_get_peer_cn()` finds it. `None` when it has none, or one that
/// is not plain text: a zero byte inside has been used to pass for somebody else.
#[must_use]
pub fn common_name(cert_der: &[u8]) -> Option<String> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    const SET: u8 = 0x31;
    const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16]; // UTF8String, PrintableString, IA5String
    let (mut tbs, _) = parts(cert_der)?;
    if tbs.0.first() == Some(&CONTEXT_0) {
        tbs.next(CONTEXT_0)?;
    }
    tbs.next(INTEGER)?; // serial number
    tbs.next(SEQUENCE)?; // signature algorithm
    tbs.next(SEQUENCE)?; // issuer
    tbs.next(SEQUENCE)?; // validity
    let mut subject = Der(tbs.next(SEQUENCE)?);
    while !subject.0.is_empty() {
        let mut attributes = Der(subject.next(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Der(attributes.next(SEQUENCE)?);
            if attribute.next(OID)? == COMMON_NAME {
                let text = TEXTS.iter().find_map(|tag| attribute.next(*tag))?;
                let text = std::str::from_utf8(text).ok()?;
                return (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned());
            }
        }
    }
    None
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// The hash of an AlgorithmIdentifier: of a signature, or for RSASSA-PSS of the hash inside.
fn hash_of(mut algorithm: Der<'_>) -> Option<Hash> {
    // Object identifiers as they stand in DER: RFC 8017 appendix A, RFC 5758, RFC 5754.
    const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const NIST_DSA: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x03];
    const NIST_HASH: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];

    let oid = algorithm.next(OID)?;
    if oid == ECDSA_SHA1 || oid == SHA1 {
        return Some(Hash::Sha256);
    }
    let (last, family) = oid.split_last()?;
    match (family, *last) {
        (PKCS1, 4 | 5) => Some(Hash::Sha256), // MD5, SHA-1
        (PKCS1, 10) => {
            // RSASSA-PSS-params: every field has a default, the hash's is SHA-1.
            let mut params = Der(algorithm.next(SEQUENCE)?);
            match params.next(CONTEXT_0) {
                Some(hash) => hash_of(Der(Der(hash).next(SEQUENCE)?)),
                None => Some(Hash::Sha256),
            }
        }
        (PKCS1, 11) | (ECDSA_SHA2 | NIST_DSA, 2) | (NIST_HASH, 1) => Some(Hash::Sha256),
        (PKCS1, 12) | (ECDSA_SHA2 | NIST_DSA, 3) | (NIST_HASH, 2) => Some(Hash::Sha384),
        (PKCS1, 13) | (ECDSA_SHA2 | NIST_DSA, 4) | (NIST_HASH, 3) => Some(Hash::Sha512),
        (PKCS1, 14) | (ECDSA_SHA2 | NIST_DSA, 1) | (NIST_HASH, 4) => Some(Hash::Sha224),
        _ => None,
    }
}

/// What is signed in a Certificate, and how (RFC 5280 section 4.1).
fn parts(cert_der: &[u8]) -> Option<(Der<'_>, Der<'_>)> {
    let mut certificate = Der(Der(cert_der).next(SEQUENCE)?);
    Some((Der(certificate.next(SEQUENCE)?), Der(certificate.next(SEQUENCE)?)))
}

/// What is left to read of a DER value.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the element that must come now. Nothing is consumed when something else does.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        if *found != tag {
            return None;
        }
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // 0x80 is BER's "until further notice"; more than four bytes of length is no certificate
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
                (usize::try_from(length).ok()?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// A Time, as RFC 5280 restricts it: seconds, and `Z`.
    fn time(&mut self) -> Option<i64> {
        let (year_digits, text) = match self.next(UTC_TIME) {
            Some(text) => (2, text),
            None => (4, self.next(GENERALIZED_TIME)?),
        };
        let (year, rest) = text.split_at_checked(year_digits)?;
        let year = match (number(year)?, year_digits) {
            (year @ 0..50, 2) => year + 2000,
            (year, 2) => year + 1900,
            (year, _) => year,
        };
        let (digits, b"Z") = rest.split_at_checked(10)? else { return None };
        let mut pairs = digits.chunks(2).map(number);
        let (month, day) = (pairs.next()??, pairs.next()??);
        let (hour, minute, second) = (pairs.next()??, pairs.next()??, pairs.next()??);
        let sane = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
        sane.then(|| days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
    }
}

/// At most four digits, so that nothing computed from it can overflow.
fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// The proleptic Gregorian calendar with years that begin in March, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SignatureAlgorithm, date_time_ymd};

    use super::*;

    fn certificate(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = date_time_ymd(1999, 12, 31);
        params.not_after = date_time_ymd(2052, 2, 29);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    /// The certificate with its outer signature algorithm replaced by one of the same length.
    fn signed_with(oid: &[u8]) -> Vec<u8> {
        const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let mut der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let at = der.windows(ECDSA_SHA256.len()).rposition(|window| window == ECDSA_SHA256).unwrap();
        der[at..at + oid.len()].copy_from_slice(oid);
        der
    }

    fn named(names: &[(DnType, DnValue)]) -> Option<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        common_name(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn a_certificate_is_whose_common_name_says() {
        let text = |text: &str| DnValue::Utf8String(text.to_owned());
        let organization = (DnType::OrganizationName, text("ours"));
        assert_eq!(named(&[organization.clone(), (DnType::CommonName, text("bob"))]).as_deref(), Some("bob"));
        let printable = DnValue::PrintableString("bob".try_into().unwrap());
        assert_eq!(named(&[(DnType::CommonName, printable)]).as_deref(), Some("bob"));
        assert_eq!(named(&[organization]), None);
        // passes for "bob" wherever a zero byte ends a text
        assert_eq!(named(&[(DnType::CommonName, text("bob\0.example.com"))]), None);
        assert_eq!(named(&[(DnType::CommonName, text(""))]), None);
        assert_eq!(common_name(b"0\x82"), None);
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(end_point_hash(&der), Some(Sha256::digest(&der).to_vec()));
        let der = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(end_point_hash(&der), Some(Sha384::digest(&der).to_vec()));
        assert_eq!(end_point_hash(&certificate(&rcgen::PKCS_ED25519)), None);
        let der = signed_with(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04]);
        assert_eq!(end_point_hash(&der), Some(Sha512::digest(&der).to_vec()));
        let der = signed_with(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x09]);
        assert_eq!(end_point_hash(&der), None);
    }

    #[test]
    fn rsa_signatures_name_their_hash_and_weak_ones_mean_sha_256() {
        let rsa = |last: u8, params: &[u8]| {
            let oid = [&[OID, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last][..], params].concat();
            hash_of(Der(&oid))
        };
        let null = &[5, 0];
        assert_eq!([4, 5, 11].map(|last| rsa(last, null)), [Some(Hash::Sha256); 3]);
        assert_eq!(
            [12, 13, 14].map(|last| rsa(last, null)),
            [Some(Hash::Sha384), Some(Hash::Sha512), Some(Hash::Sha224)]
        );
        assert_eq!(rsa(2, null), None);
        // RSASSA-PSS: SHA-384 in its parameters, none at all, and no parameters where there must be some
        let sha384 = [0x30, 15, 0xa0, 13, 0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
        assert_eq!(rsa(10, &sha384), Some(Hash::Sha384));
        assert_eq!(rsa(10, &[0x30, 0]), Some(Hash::Sha256));
        assert_eq!(rsa(10, &[]), None);
        assert_eq!(hash_of(Der(&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01])), Some(Hash::Sha256));
    }

    #[test]
    fn the_dates_are_those_of_the_certificate() {
        let period = validity(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        assert_eq!(period, 946_598_400..=2_592_777_600); // one UTCTime, one GeneralizedTime
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            at in any::<prop::sample::Index>(),
        ) {
            let mut der = certificate(&rcgen::PKCS_ED25519);
            let at = at.index(der.len());
            der.splice(at.., bytes.iter().copied());
            for input in [&bytes, &der] {
                let _ = (end_point_hash(input), validity(input), common_name(input));
            }
        }
    }
}
