//! How requests show or prove their credential, validated. Names of tokens, and where each of them goes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::text::{Encoding, Text};
use super::super::{HttpDocument, Method, Needed, TokenName, Url};

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Auth {
    None,
    Bearer {
        token: TokenName,
    },
    Basic {
        user: String,
        token: TokenName,
    },
    /// `name: prefix` + token; the prefix holds its own space, if any.
    Header {
        name: String,
        prefix: String,
        token: TokenName,
    },
    Hawk {
        id: String,
        key: TokenName,
        algorithm: HawkAlgorithm,
    },
    AwsSigV4(Box<AwsSigV4>),
    OAuth2(Box<ClientCredentials>),
    Google(Box<ServiceAccount>),
    Login(Box<Login>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HawkAlgorithm {
    Sha256,
    Sha1,
}

/// Signature Version 4 of AWS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AwsSigV4 {
    pub service: String,
    pub region: String,
    pub credentials: AwsCredentials,
}

/// Where the credentials of AWS come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AwsCredentials {
    Static {
        access_key_id: String,
        secret_access_key: TokenName,
        session_token: Option<TokenName>,
    },
    /// A token file with lines `AWS_ACCESS_KEY_ID=…`, or with profiles.
    File {
        token: TokenName,
        profile: Option<String>,
    },
    /// The endpoint of ECS or EKS, and what it wants to be shown.
    Container {
        url: Url,
        token: Option<TokenName>,
    },
    /// The instance's metadata, version 2.
    Imds {
        url: Url,
        role: Option<String>,
    },
}

/// RFC 6749 section 4.4.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientCredentials {
    pub token_url: Url,
    pub client_id: String,
    pub client_secret: TokenName,
    pub scope: Option<String>,
    /// The credentials stand in the body, not in `Authorization`.
    pub in_body: bool,
}

/// A key file of Google's as a token, and where alone its assertion goes (RFC 7523).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceAccount {
    pub key: TokenName,
    pub scope: String,
    pub token_url: Url,
}

/// What must stand in a token that is a whole file, so that it is of use where it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The key of a service account of Google's that names this place as its `token_uri`.
    GoogleKey { token_url: Url },
    /// Credentials of AWS: those of this profile, or lines, or those of the profile `default`.
    AwsCredentials { profile: Option<String> },
}

/// A request that is answered with a session's token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Login {
    pub url: Url,
    pub method: Method,
    /// Names in lower case; secrets stand in the values.
    pub headers: Vec<(String, Text)>,
    pub body: Option<(Text, Encoding)>,
    /// By the names that the texts have them by; texts name them by their places here.
    pub secrets: Vec<(String, TokenName)>,
    pub unwrap: Option<Unwrap>,
    /// The secrets are good for one login: its session is renewed for as long as that goes.
    pub once: bool,
    /// Where in the answer the session's token is: the tokens of a JSON pointer.
    pub pointer: Vec<String>,
    pub lifetime: Lifetime,
    /// Asked with the session's token, at the same origin, for a longer life.
    pub renew: Option<Url>,
    /// How the session's token is shown, to the document and for renewal.
    pub header: String,
    pub prefix: String,
}

/// A secret that is the token of a wrapped answer, which is taken once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unwrap {
    /// Its place among the secrets.
    pub secret: usize,
    pub url: Url,
    /// Where in the answer the secret itself is.
    pub pointer: Vec<String>,
    /// Where it must have been wrapped, which is asked before; and where that is asked.
    pub creation: Option<(String, Url)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lifetime {
    /// Nothing says.
    Untold,
    Fixed(Duration),
    /// Seconds, at this pointer into the answer.
    At(Vec<String>),
}

/// The addresses at which clouds answer what runs in them, by plain HTTP and never off the host's own link.
const METADATA: [&str; 5] = ["169.254.169.254", "[fd00:ec2::254]", "169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

impl Auth {
    /// The token that every request shows as it is, or is signed with.
    pub fn token(&self) -> Option<&TokenName> {
        match self {
            Self::Bearer { token } | Self::Basic { token, .. } | Self::Header { token, .. } => Some(token),
            Self::Hawk { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Where a session or credentials are asked for, if they are.
    pub fn endpoint(&self) -> Option<&Url> {
        match self {
            Self::AwsSigV4(aws) => match &aws.credentials {
                AwsCredentials::Container { url, .. } | AwsCredentials::Imds { url, .. } => Some(url),
                AwsCredentials::Static { .. } | AwsCredentials::File { .. } => None,
            },
            Self::OAuth2(client) => Some(&client.token_url),
            Self::Google(account) => Some(&account.token_url),
            Self::Login(login) => Some(&login.url),
            _ => None,
        }
    }

    /// Whether the endpoint is on this host's own link, which no proxy is on the way to.
    pub fn is_metadata(&self) -> bool {
        matches!(self, Self::AwsSigV4(_))
    }

    /// What would be sent in clear, if the endpoint is not one of those that are so by their nature.
    pub(in crate::config) fn plain_endpoint(&self) -> Option<&Url> {
        let by_nature = |url: &Url| self.is_metadata() && METADATA.contains(&url.host.as_str());
        self.endpoint().filter(|url| !url.https && !by_nature(url))
    }

    /// Whether a request for a document has anything that others must not read.
    pub(in crate::config) fn is_secret(&self) -> bool {
        *self != Self::None
    }

    /// The token that is several lines, a whole file, and what must stand in it.
    pub fn file(&self) -> Option<(&TokenName, Content)> {
        match self {
            Self::AwsSigV4(aws) => match &aws.credentials {
                AwsCredentials::File { token, profile } => {
                    Some((token, Content::AwsCredentials { profile: profile.clone() }))
                }
                _ => None,
            },
            Self::Google(account) => Some((&account.key, Content::GoogleKey { token_url: account.token_url.clone() })),
            _ => None,
        }
    }
}

impl HttpDocument {
    /// [`Document::tokens`](crate::config::Document::tokens).
    pub fn tokens(&self) -> Vec<Needed> {
        let to = |token: &TokenName, url: &Url| Needed { token: token.clone(), origin: url.origin() };
        match &self.auth {
            Auth::AwsSigV4(aws) => match &aws.credentials {
                AwsCredentials::Static { secret_access_key, session_token, .. } => {
                    [Some(secret_access_key), session_token.as_ref()]
                        .into_iter()
                        .flatten()
                        .map(|t| to(t, &self.url))
                        .collect()
                }
                AwsCredentials::File { token, .. } => vec![to(token, &self.url)],
                AwsCredentials::Container { url, token } => token.iter().map(|token| to(token, url)).collect(),
                AwsCredentials::Imds { .. } => Vec::new(),
            },
            Auth::OAuth2(client) => vec![to(&client.client_secret, &client.token_url)],
            Auth::Google(account) => vec![to(&account.key, &account.token_url)],
            Auth::Login(login) => {
                let mut needed: Vec<Needed> = login.secrets.iter().map(|(_, token)| to(token, &login.url)).collect();
                needed.sort();
                needed.dedup();
                needed
            }
            simple => simple.token().map(|token| to(token, &self.url)).into_iter().collect(),
        }
    }
}
