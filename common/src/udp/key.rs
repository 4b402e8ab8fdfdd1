//! The cluster key: 32 secret bytes that every process of a cluster holds.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use ring::hkdf;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::error::KeyError;

/// Length of the key.
const KEY_BYTES: usize = 32;

/// What separates the keys derived here from those of any other use of the
/// same secret.
const SALT: &[u8] = b"store cluster key 1";

/// The secret that makes a process a member of the family. Everything that
/// the UDP side needs is derived from it by HKDF; it is never sent.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_BYTES]);

impl ClusterKey {
    /// Draws a new key.
    ///
    /// # Panics
    /// When the system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
        Self(bytes)
    }

    /// A key from elsewhere, e.g. a test's.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads a key file: 64 hexadecimal digits on one line. Warns when others
    /// than its owner can read it.
    ///
    /// # Errors
    /// [`KeyError`] names the file and the way out.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
            _ => KeyError::Read { path: path.to_owned(), source },
        };
        // Bytes, so that a file of another kind is malformed, not unreadable.
        let text = fs::read(path).map_err(read)?;
        let key = parse(&text).map_err(|why| KeyError::Malformed { path: path.to_owned(), why })?;
        let mode = fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(
                path = %path.display(),
                mode = format_args!("{:o}", mode & 0o777),
                "others can read the cluster key: chmod 600 it"
            );
        }
        Ok(key)
    }

    /// Reads the key file, or makes it with a new key. When several processes
    /// do this at once, all end up with the same key.
    ///
    /// # Errors
    /// [`KeyError`] names the file and the way out.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Missing { .. }) => {}
            other => return other,
        }
        let key = Self::generate();
        match key.create(path) {
            Ok(()) => Ok(key),
            // Somebody else was first: theirs counts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(KeyError::Write { path: path.to_owned(), source }),
        }
    }

    /// Writes the file beside and links it in place: unlike a rename a link
    /// fails when the name is taken, and unlike creating the file in place it
    /// never shows half a key.
    fn create(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir)?;
        }
        let mut nonce = [0; 8];
        SystemRandom::new().fill(&mut nonce).map_err(|_| io::Error::other("no randomness"))?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{:016x}", u64::from_le_bytes(nonce)));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(self.to_text().as_bytes())?;
            file.sync_all()?;
            fs::hard_link(&beside, path)
        })();
        // The link, if made, keeps the contents; a leftover would be a second
        // copy of a secret.
        let removed = fs::remove_file(&beside);
        written.and(removed)
    }

    fn to_text(&self) -> String {
        let mut text = hex(&self.0);
        text.push('\n');
        text
    }

    /// A short print of the key that gives nothing away, to compare two hosts.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&self.derive::<4>(&[b"fingerprint"]))
    }

    /// Derives a key for one purpose.
    pub(super) fn derive<const N: usize>(&self, purpose: &[&[u8]]) -> [u8; N] {
        let mut out = [0; N];
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
            .extract(&self.0)
            .expand(purpose, Length(N))
            .and_then(|okm| okm.fill(&mut out))
            .expect("HKDF gives up to 8160 bytes");
        out
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.fingerprint())
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

fn parse(text: &[u8]) -> Result<ClusterKey, &'static str> {
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return Err("it is empty");
    }
    if digits.len() != KEY_BYTES * 2 {
        return Err("it has another length");
    }
    let mut key = [0; KEY_BYTES];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or("it has other characters");
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).expect("two digits make a byte");
    }
    Ok(ClusterKey(key))
}
