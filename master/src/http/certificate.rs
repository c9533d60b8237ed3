//! What callers are shown under `tls=1` and `tls=2` (`rest.md` §1).

use std::path::Path;
use std::sync::Arc;

use protocol::config::Master;
use protocol::terms::DataTls;
use runtime_smol::tls::{ALPN_HTTP, Identity, IdentityError, ServerTls, Watch};
use smol::channel::Receiver;

/// TLS as it is in force, which may be less than what was asked for.
#[derive(Debug)]
pub(crate) struct Shown {
    /// What `/info` says and instances inherit.
    pub(crate) tls: DataTls,
    /// `None` for plain HTTP.
    pub(crate) server: Option<Arc<ServerTls>>,
    /// The files that may change.
    watch: Option<Watch>,
}

impl Shown {
    /// Reads or makes a certificate. Files that are bad or missing are logged, and one made in
    /// memory stands in. Blocks on the files.
    ///
    /// # Errors
    /// There is no randomness.
    pub(crate) fn new(config: &Master) -> Result<Self, IdentityError> {
        match config.tls {
            DataTls::Plain => Ok(Self {
                tls: DataTls::Plain,
                server: None,
                watch: None,
            }),
            DataTls::Pinned => Self::made(),
            DataTls::Verified => match Self::files(config) {
                Ok(watch) => Self::with(DataTls::Verified, &watch.current().clone(), Some(watch)),
                Err(problem) => {
                    tracing::error!("tls=2 is not possible, tls=1 is in force: {problem}");
                    Self::made()
                }
            },
        }
    }

    fn files(config: &Master) -> Result<Watch, String> {
        let (Some(crt), Some(key)) = (&config.crt, &config.crt_key) else {
            return Err("crt and key are needed".to_owned());
        };
        Watch::open(Path::new(crt), Path::new(key), config.env.reload_interval)
            .map_err(|error| error.to_string())
    }

    fn made() -> Result<Self, IdentityError> {
        Self::with(DataTls::Pinned, &Identity::self_signed()?, None)
    }

    fn with(
        tls: DataTls,
        identity: &Identity,
        watch: Option<Watch>,
    ) -> Result<Self, IdentityError> {
        let server = ServerTls::new(identity, vec![ALPN_HTTP.to_vec()])
            .map_err(|error| IdentityError::Make(error.to_string()))?;
        Ok(Self {
            tls,
            server: Some(Arc::new(server)),
            watch,
        })
    }

    /// Follows the files, for ever. A message on `reload` has them read at once.
    pub(crate) async fn follow(self, reload: Receiver<()>) {
        let (Some(mut watch), Some(server)) = (self.watch, self.server) else {
            return;
        };
        loop {
            let identity = watch.changed(&reload).await;
            match server.swap(&identity) {
                Ok(()) => tracing::info!("the API's certificate was replaced"),
                Err(error) => tracing::warn!("the API's certificate stays: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::config::{Config, parse};

    use super::*;
    use crate::testing::Directory;

    fn shown(query: &str) -> Shown {
        let url = format!("master://127.0.0.1:1/?{query}");
        let Config::Master(config) = parse(&url, &|_| None).unwrap().config else {
            panic!("not a master");
        };
        Shown::new(&config).unwrap()
    }

    #[test]
    fn what_is_in_force_is_known() {
        assert_eq!(shown("tls=0").tls, DataTls::Plain);
        assert!(shown("tls=0").server.is_none());
        assert_eq!(shown("tls=1").tls, DataTls::Pinned);
        assert!(shown("tls=1").server.is_some());
    }

    #[test]
    fn bad_files_leave_a_certificate_made_in_memory() {
        let directory = Directory::new();
        let (crt, key) = (directory.path().join("crt"), directory.path().join("key"));
        let query = format!("tls=2&crt={}&key={}", crt.display(), key.display());
        assert_eq!(shown(&query).tls, DataTls::Pinned);
        std::fs::write(&crt, "half a certifica").unwrap();
        std::fs::write(&key, "").unwrap();
        let shown = shown(&query);
        assert_eq!(shown.tls, DataTls::Pinned);
        assert!(shown.server.is_some() && shown.watch.is_none());
    }
}
