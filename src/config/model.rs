//! The validated configuration: what every other part of keyhatch works with.
//!
//! Holds paths and names of secrets, never their bytes. Values here are resolved (uids, not user names;
//! defaults filled in), so that nothing downstream has to decide what an absent setting means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Auth, Description, KeyTemplate, NamekoDocument, OutcomeRule, Projection, RateLimit};
use crate::acl::Acl;
use crate::arguments::{Arguments, Carried};
use crate::outcome::Class;
use crate::secret::KeyPath;
use crate::staleness::Settings;

/// The whole configuration, of `keyhatch.toml` and its `conf.d`.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub cache: Cache,
    pub limits: Limits,
    /// All tokens of the configuration, also those that nothing uses.
    pub tokens: BTreeMap<TokenName, SecretFile>,
    /// The operator's own presets, for a person.
    pub presets: Vec<Description>,
    /// In the order of their paths; a key with several sources is as many of them ([`served`]).
    pub keys: Vec<Key>,
    /// Keys with parameters, in the order of their definition: the first one that a path is inside of counts.
    pub templates: Vec<KeyTemplate>,
    /// The clients, resolved; where each was defined is in its rule.
    pub acl: Acl,
    /// What is legal but looks like a mistake (no keys, a pattern that matches no key): for a person.
    pub warnings: Vec<String>,
    /// What does not stop a start but is an error for `check`: users and groups that cannot be found.
    pub problems: Vec<String>,
}

/// Where something was defined.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Location {
    pub file: PathBuf,
    /// From 1.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

#[derive(Debug)]
pub struct Server {
    /// At most 107 bytes (`sun_path`, unix(7)).
    pub socket: PathBuf,
    /// Permission bits of the socket, such as `0o666`.
    pub socket_mode: u32,
    pub admin_socket: PathBuf,
    /// The group that may read from the admin socket, if any.
    pub admin_group: Option<nix::unistd::Gid>,
    pub parent_user: ServiceUser,
    pub worker_user: ServiceUser,
    pub sandbox: SandboxMode,
}

/// A user that a role drops to. Only looked up when the start is privileged: without root, both roles
/// stay who they are and `ids` is not used.
#[derive(Debug, Clone)]
pub struct ServiceUser {
    pub name: String,
    /// uid and primary gid; `None` when there is no such user.
    pub ids: Option<(nix::unistd::Uid, nix::unistd::Gid)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxMode {
    /// A layer that should hold and fails stops the start.
    Strict,
    /// Such a layer is named in the log, and the start goes on.
    BestEffort,
}

#[derive(Debug)]
pub struct Cache {
    pub directory: PathBuf,
    /// At least one; the first seals, all open.
    pub seal_keys: Vec<SecretFile>,
}

/// Where a token or a seal key is read from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SecretFile {
    File(PathBuf),
    /// A file of this name in `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).
    Credential(String),
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// All peers together; peers that no client matches share an eighth of them.
    pub connections: u32,
    pub connections_per_user: u32,
    /// Fetches started per second, with a burst of twice that.
    pub fetches_per_user: u32,
    pub value_size: u64,
    pub document_size: u64,
    /// Of values, in each role.
    pub memory: u64,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub header_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_user: 64,
            fetches_per_user: 50,
            value_size: 1 << 20,
            document_size: 8 << 20,
            memory: 64 << 20,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            header_size: 16 << 10,
        }
    }
}

/// The name of an entry of `[tokens]`. Not a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TokenName(pub String);

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// Of a key with several sources, one of its parts ([`KeyPath::part`]).
    pub path: KeyPath,
    pub source: Source,
    pub settings: Settings,
    pub at: Location,
}

/// The keys that peers are served, each once: the first part of one with several sources stands for all of them, which
/// have the same settings and place.
pub fn served(keys: &[Key]) -> impl Iterator<Item = &Key> {
    let mut before: Option<KeyPath> = None;
    keys.iter().filter(move |key| {
        let whole = key.path.whole();
        let first = before.as_ref() != Some(&whole);
        before = Some(whole);
        first
    })
}

/// Where a value comes from: a document, and what of it is the value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    pub document: Document,
    pub projection: Projection,
    /// What the sealed cache binds a value to: type, URL or preset with its parameters, method, body,
    /// headers that select data, projection and the token's name. One line of text, the same in every version.
    pub definition: String,
}

/// One upstream answer. Keys with equal documents share one fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Document {
    Http(Box<HttpDocument>),
    File(FileDocument),
    Nameko(Box<NamekoDocument>),
    Command(Box<CommandDocument>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct HttpDocument {
    pub url: Url,
    pub method: Method,
    /// Names in lower case; the configuration's, and those of a preset (`Accept` of `heroku`).
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
    pub format: Format,
    pub auth: Auth,
    pub ca_file: Option<PathBuf>,
    /// An HTTP proxy, spoken to with CONNECT (RFC 9110 section 9.3.6).
    pub proxy: Option<Url>,
    /// Before the classes that statuses have anyway; the first that applies counts.
    pub outcomes: Vec<OutcomeRule>,
    /// Headers that say that a quota is spent, beside the usual ones.
    pub rate_limit: Option<RateLimit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct FileDocument {
    pub path: PathBuf,
    pub format: Format,
}

/// What a program writes to its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct CommandDocument {
    pub command: Command,
    pub token: Option<TokenName>,
    pub format: Format,
    /// What exit codes other than 0 mean, in their order; those that are not here are unavailability.
    pub exit_codes: Vec<(u8, Class)>,
}

/// What is run, and as whom: fixed at start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Command {
    /// An absolute path.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// As the configuration has it, in the order of the names.
    pub environment: Vec<(String, String)>,
    pub directory: PathBuf,
    /// As the configuration names it.
    pub user: String,
    /// uid and gid; `None` when there is no such user.
    pub ids: Option<(u32, u32)>,
    pub token: TokenPlace,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", argument.escape_debug()))
    }
}

/// Where a program is given its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum TokenPlace {
    None,
    /// Up to the end of file.
    Stdin,
    /// Descriptor 3, up to the end of file.
    Descriptor,
}

/// How the bytes of a document are read. `Toml` and `Env` are for files and programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Format {
    Json,
    /// The whole text is one string.
    Text,
    Toml,
    /// `NAME=value` lines, as in systemd's `EnvironmentFile=` without its quoting of several lines.
    Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Method {
    Get,
    Post,
}

/// An `http` or `https` URL without user info and fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Url {
    pub https: bool,
    /// Lower case; IPv6 addresses with their brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub target: String,
}

impl Url {
    /// `scheme://host:port`, what back-off and the redirect rule call an origin (RFC 6454).
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", if self.https { "https" } else { "http" }, self.host, self.port)
    }
}

/// A token that fetching a document needs, and the origin that it goes to, which need not be the document's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needed {
    pub token: TokenName,
    pub origin: String,
}

impl Document {
    /// The same with the arguments that it is called with, if it is a call.
    pub fn carrying(&self, arguments: Arc<Arguments>) -> Self {
        let mut document = self.clone();
        if let Self::Nameko(call) = &mut document {
            call.carried = Carried::new(arguments);
        }
        document
    }

    /// All tokens that fetching needs. One that goes to several origins is there for each of them.
    pub fn tokens(&self) -> Vec<Needed> {
        match self {
            Self::Http(http) => http.tokens(),
            Self::File(_) => Vec::new(),
            Self::Nameko(call) => vec![Needed { token: call.token.clone(), origin: call.broker.origin() }],
            Self::Command(document) => {
                let needed = |token: &TokenName| Needed { token: token.clone(), origin: self.origin() };
                document.token.iter().map(needed).collect()
            }
        }
    }

    /// Their names, in order, each once: documents with the same ones are refused together, and back off together.
    pub fn token_names(&self) -> Vec<TokenName> {
        let mut names: Vec<TokenName> = self.tokens().into_iter().map(|needed| needed.token).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether fetching asks there: for the document, or for the session that it shows.
    pub fn asks(&self, origin: &str) -> bool {
        let session = if let Self::Http(http) = self { http.auth.endpoint() } else { None };
        self.origin() == origin || session.is_some_and(|url| url.origin() == origin)
    }

    pub fn needs(&self, token: &TokenName) -> bool {
        self.tokens().iter().any(|needed| needed.token == *token)
    }

    /// A name for the log: the origin, or the path. Never user info, query, argument or token.
    pub fn origin(&self) -> String {
        match self {
            Self::Http(http) => http.url.origin(),
            Self::File(file) => format!("file://{}", file.path.display()),
            Self::Nameko(call) => call.broker.origin(),
            Self::Command(document) => format!("command://{}", document.command.program.display()),
        }
    }
}
