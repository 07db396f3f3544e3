//! The certificates of a control plane: an authority of its own, the API server's, and those of users.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::{BedError, during};

/// A certificate and its key, both PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// The authority that signs for one control plane.
pub struct Authority {
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Result<Authority, BedError> {
        let key = during("making a key", KeyPair::generate())?;
        let mut parameters = parameters("bed-ca", &[])?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = during("signing the authority", parameters.self_signed(&key))?.pem();
        Ok(Authority { certificate, issuer: Issuer::new(parameters, key) })
    }

    /// The API server's certificate, for loopback.
    pub fn server(&self) -> Result<Identity, BedError> {
        let mut parameters = parameters("kube-apiserver", &[])?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let name = |text: &str| during("a DNS name", text.try_into()).map(SanType::DnsName);
        parameters.subject_alt_names =
            vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)), name("localhost")?, name("kubernetes.default.svc")?];
        self.sign(parameters)
    }

    /// A user's certificate: Kubernetes reads the common name as the user and the organisations as groups.
    pub fn user(&self, user: &str, groups: &[&str]) -> Result<Identity, BedError> {
        let mut parameters = parameters(user, groups)?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters)
    }

    fn sign(&self, parameters: CertificateParams) -> Result<Identity, BedError> {
        let key = during("making a key", KeyPair::generate())?;
        let certificate = during("signing a certificate", parameters.signed_by(&key, &self.issuer))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// The key pair with which service account tokens are signed: private and public, PEM.
pub fn service_account_key() -> Result<(String, String), BedError> {
    let key = during("making a key", KeyPair::generate())?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn parameters(common_name: &str, organizations: &[&str]) -> Result<CertificateParams, BedError> {
    let mut parameters = during("certificate parameters", CertificateParams::new(Vec::new()))?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    for organization in organizations {
        name.push(DnType::OrganizationName, *organization);
    }
    parameters.distinguished_name = name;
    Ok(parameters)
}
