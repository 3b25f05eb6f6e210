//! Compiles the protocols, without protoc.
//!
//! Messages with a field marked `csi_secret` get no derived `Debug`: this writes one for each that leaves the secret
//! values out, and what a test needs to check all of them.

#![allow(clippy::expect_used, reason = "a build script may fail loudly")]

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost_reflect::{self, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, Value};

const FILES: [&str; 4] = [
    "csi/v1/csi.proto",
    "windlass/v1/windlass.proto",
    "windlass/v1/blocks.proto",
    "pluginregistration/v1/pluginregistration.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    // Encoded by protox itself, which keeps our options; without comments, to be small.
    fs::write(out.join("descriptor_set.bin"), compiler.encode_file_descriptor_set())?;

    let secret_messages = secret_messages(&compiler.descriptor_pool());
    write_debug_impls(&secret_messages, &out)?;
    write_methods(&compiler.descriptor_pool(), &out)?;

    compiler.include_source_info(true);
    tonic_prost_build::configure()
        .skip_debug(secret_messages.iter().map(|m| format!(".{}", m.full_name())))
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// Writes `methods.rs`: the paths of all methods, ascending.
fn write_methods(pool: &DescriptorPool, out: &Path) -> Result<(), Box<dyn Error>> {
    let of_service = |service: prost_reflect::ServiceDescriptor| {
        service.methods().map(|method| format!("/{}/{}", service.full_name(), method.name())).collect::<Vec<_>>()
    };
    let mut paths: Vec<String> = pool.services().flat_map(of_service).collect();
    paths.sort();
    fs::write(out.join("methods.rs"), format!("&{paths:#?}"))?;
    Ok(())
}

/// The messages that have a secret field of their own.
fn secret_messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let messages: Vec<_> = pool.all_messages().filter(|m| m.fields().any(|f| is_secret(&f))).collect();
    assert!(!messages.is_empty(), "no field is marked csi_secret");
    messages
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let option = field.parent_pool().get_extension_by_name("csi.v1.csi_secret").expect("csi.proto declares csi_secret");
    matches!(*field.options().get_extension(&option), Value::Bool(true))
}

/// Writes `redacted.rs`, the `Debug` impls, and `redacted_samples.rs`, an expression for the test: for each message its
/// name, the text of one whose secrets are filled in, and the names of its other fields.
fn write_debug_impls(messages: &[MessageDescriptor], out: &Path) -> Result<(), Box<dyn Error>> {
    let mut impls = String::new();
    let mut samples = String::from("[\n");
    for message in messages {
        // The type is found by a simple rule, which does for what we have: fail here if that ever changes.
        assert!(message.parent_message().is_none(), "{}: nested messages are not provided for", message.full_name());
        assert_eq!(message.oneofs().len(), 0, "{}: oneofs are not provided for", message.full_name());
        let name = message.name();
        let path = format!("crate::{}::{name}", message.package_name().replace('.', "::"));

        writeln!(impls, "impl ::core::fmt::Debug for {path} {{")?;
        writeln!(impls, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(impls, "        f.debug_struct({name:?})")?;
        let mut filled = String::new();
        let mut plain = Vec::new();
        for field in message.fields() {
            let field_name = field.name();
            assert!(!matches!(field.kind(), Kind::Enum(_)), "{}: enums are not provided for", field.full_name());
            if !is_secret(&field) {
                writeln!(impls, "            .field({field_name:?}, &self.{field_name})")?;
                plain.push(field_name.to_owned());
            } else if field.is_map() {
                writeln!(impls, "            .field({field_name:?}, &crate::Redacted::Entries(self.{field_name}.len()))")?;
                write!(filled, "{field_name}: [(\"hush-key\".into(), \"hush-value\".into())].into(), ")?;
            } else {
                assert!(
                    matches!(field.kind(), Kind::String | Kind::Bytes) && !field.is_list(),
                    "{}: a secret is a string, bytes or a map of strings",
                    field.full_name()
                );
                writeln!(impls, "            .field({field_name:?}, &crate::Redacted::Text(!self.{field_name}.is_empty()))")?;
                write!(filled, "{field_name}: \"hush-text\".into(), ")?;
            }
        }
        impls.push_str("            .finish()\n    }\n}\n\n");
        let rest = if plain.is_empty() { "" } else { "..Default::default()" };
        writeln!(samples, "({:?}, format!(\"{{:?}}\", {path} {{ {filled}{rest} }}), vec!{plain:?}),", message.full_name())?;
    }
    samples.push_str("]\n");
    fs::write(out.join("redacted.rs"), impls)?;
    fs::write(out.join("redacted_samples.rs"), samples)?;
    Ok(())
}
