//! The protocols that Windlass speaks, as Rust types, gRPC clients and gRPC server traits.
//!
//! This crate owns the wire: the `.proto` files under `proto/`, what is generated from them, and nothing that interprets
//! a message.
//!
//! * [`csi::v1`] is the Container Storage Interface 1.13. It is tested field by field against `tests/fields.txt`.
//! * [`windlass::v1`] is Windlass's own protocol, for what CSI has no words for.
//! * [`pluginregistration::v1`] is the kubelet's protocol for plugins that make themselves known.
//!
//! A field marked `csi_secret` is never printed: the `Debug` of its message shows `<N redacted>` in its place, and so
//! does that of every message around it. The build writes these impls from the marks, so a new field needs only its mark.

/// The Container Storage Interface.
pub mod csi {
    /// CSI 1.13, package `csi.v1`.
    #[allow(
        clippy::all,
        clippy::pedantic,
        clippy::nursery,
        missing_docs,
        rustdoc::all,
        reason = "generated code, and comments written for proto files"
    )]
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// Windlass's own protocol.
pub mod windlass {
    /// Package `windlass.v1`.
    #[allow(
        clippy::all,
        clippy::pedantic,
        clippy::nursery,
        missing_docs,
        rustdoc::all,
        reason = "generated code, and comments written for proto files"
    )]
    pub mod v1 {
        tonic::include_proto!("windlass.v1");
    }
}

/// The registration of plugins with the kubelet.
pub mod pluginregistration {
    /// Version 1, package `pluginregistration`.
    #[allow(
        clippy::all,
        clippy::pedantic,
        clippy::nursery,
        missing_docs,
        rustdoc::all,
        reason = "generated code, and comments written for proto files"
    )]
    pub mod v1 {
        tonic::include_proto!("pluginregistration");
    }
}

/// All protocols and all they import as an encoded `google.protobuf.FileDescriptorSet`, options included, comments not.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor_set.bin"));

/// The paths of all methods of all protocols, ascending: `/csi.v1.Controller/CreateVolume`.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// The `Debug` impls of the messages that hold secrets.
mod redacted {
    include!(concat!(env!("OUT_DIR"), "/redacted.rs"));
}

/// What is printed in the place of a secret.
enum Redacted {
    /// A map of so many secrets. The keys are not shown either.
    Entries(usize),
    /// A single secret, and whether there is one. Not how long it is.
    Text(bool),
}

impl std::fmt::Debug for Redacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Entries(count) => write!(f, "<{count} redacted>"),
            Self::Text(given) => write!(f, "<{} redacted>", u8::from(given)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::METHODS;
    use crate::windlass::v1::{RepositoryAccess, StartExportRequest, StartRestoreRequest};

    #[test]
    fn methods_are_found_by_their_paths() {
        assert!(METHODS.is_sorted());
        for path in ["/csi.v1.Controller/CreateVolume", "/windlass.v1.Metrics/GetMetrics"] {
            assert!(METHODS.binary_search(&path).is_ok(), "{path}");
        }
        assert!(METHODS.binary_search(&"/csi.v1.Controller/Nonsense").is_err());
    }

    #[test]
    fn no_secret_is_printed() {
        let samples = include!(concat!(env!("OUT_DIR"), "/redacted_samples.rs"));
        for (name, text, plain_fields) in samples {
            assert!(!text.contains("hush"), "{name} prints a secret: {text}");
            assert!(text.contains("<1 redacted>"), "{name}: {text}");
            for field in plain_fields {
                assert!(text.contains(&format!("{field}: ")), "{name} does not print {field}: {text}");
            }
        }
    }

    #[test]
    fn no_secret_is_printed_by_messages_around() {
        let access = || {
            Some(RepositoryAccess {
                location: "s3:https://store/bucket".to_owned(),
                password: "hush".to_owned(),
                environment: [("AWS_SECRET_ACCESS_KEY".to_owned(), "hush".to_owned()), ("B".to_owned(), "hush".to_owned())]
                    .into(),
                cloud_identity: false,
            })
        };
        let export = StartExportRequest { repository: access(), ..Default::default() };
        let restore = tonic::Request::new(StartRestoreRequest { repository: access(), ..Default::default() });
        for text in [format!("{export:?}"), format!("{export:#?}"), format!("{restore:?}")] {
            assert!(!text.contains("hush") && !text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
            assert!(text.contains("location: \"s3:https://store/bucket\""), "{text}");
            assert!(text.contains("password: <1 redacted>") && text.contains("environment: <2 redacted>"), "{text}");
        }
    }
}
