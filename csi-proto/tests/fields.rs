//! Our `csi.proto` has every message, field, enum value and call of CSI 1.13, and nothing else.
//!
//! `fields.txt` lists them one a line, which is also what this makes of our own descriptors; then the two are compared.
//! The list does not mark oneofs, so these have a test of their own.

#![allow(clippy::expect_used, reason = "helpers of tests")]

use std::collections::BTreeSet;

use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, ServiceDescriptor,
    Value,
};

const PACKAGE: &str = "csi.v1";

fn pool() -> DescriptorPool {
    DescriptorPool::decode(csi_proto::FILE_DESCRIPTOR_SET).expect("the descriptor set is valid")
}

/// The facts of the list: each line with its message, service or enum before it, without trailing space.
fn listed() -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let mut parent = String::new();
    for line in include_str!("fields.txt").lines().filter(|l| !l.trim().is_empty()) {
        let text = line.trim().to_owned();
        let fact = if text.starts_with("enum ") {
            text
        } else if line.starts_with(' ') {
            format!("{parent}: {text}")
        } else {
            parent = text.split(' ').take(2).collect::<Vec<_>>().join(" ");
            text
        };
        assert!(facts.insert(fact.clone()), "listed twice: {fact}");
    }
    facts
}

/// The same facts of our own protocol.
fn ours(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    for message in pool.all_messages().filter(|m| m.package_name() == PACKAGE && !m.is_map_entry()) {
        facts.extend(message_facts(&message));
    }
    facts.extend(pool.all_enums().filter(|e| e.package_name() == PACKAGE).map(|e| enum_fact(&e)));
    for service in pool.services().filter(|s| s.package_name() == PACKAGE) {
        facts.extend(service_facts(&service));
    }
    facts
}

fn message_facts(message: &MessageDescriptor) -> Vec<String> {
    let name = relative(message.full_name());
    let reserved: Vec<_> = message.reserved_ranges().map(|r| (r.start, r.end)).collect();
    let reserved = if reserved.is_empty() { String::new() } else { format!(" reserved {reserved:?}") };
    let alpha = list(&marks(&message.options(), &[("alpha_message", "alpha")]));
    let mut facts = vec![format!("message {name} {alpha}{reserved}")];
    for field in message.fields() {
        let marks = marks(&field.options(), &[("alpha_field", "alpha"), ("csi_secret", "secret")]);
        let marks = if marks.is_empty() { String::new() } else { format!(" {}", list(&marks)) };
        let repeated = if field.is_list() || field.is_map() { "repeated " } else { "" };
        facts.push(format!("message {name}: {} {} {repeated}{}{marks}", field.number(), field.name(), type_name(&field)));
    }
    facts
}

fn type_name(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(m) => {
            if field.is_map() {
                let strings = m.fields().all(|f| f.kind() == Kind::String);
                assert!(strings, "{} is not a map of strings", field.full_name());
            }
            relative(m.full_name())
        }
        Kind::Enum(e) => relative(e.full_name()),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn enum_fact(en: &EnumDescriptor) -> String {
    let values: Vec<_> = en
        .values()
        .map(|v| {
            let alpha = if marks(&v.options(), &[("alpha_enum_value", "alpha")]).is_empty() { "" } else { "(alpha)" };
            format!("{}={}{alpha}", v.name(), v.number())
        })
        .collect();
    let alpha = list(&marks(&en.options(), &[("alpha_enum", "alpha")]));
    let ranges: Vec<_> = en.reserved_ranges().map(|r| (*r.start(), *r.end())).collect();
    let names: Vec<_> = en.reserved_names().collect();
    format!("enum {} {alpha} {} reserved {ranges:?} {names:?}", relative(en.full_name()), values.join("; "))
}

fn service_facts(service: &ServiceDescriptor) -> Vec<String> {
    let alpha = list(&marks(&service.options(), &[("alpha_service", "alpha")]));
    let mut facts = vec![format!("service {} {alpha}", service.name())];
    for method in service.methods() {
        // The list leaves the types out: they follow from the name.
        assert_eq!(method.input().full_name(), format!("{PACKAGE}.{}Request", method.name()));
        assert_eq!(method.output().full_name(), format!("{PACKAGE}.{}Response", method.name()));
        assert!(!method.is_client_streaming(), "{}", method.full_name());
        let stream = if method.is_server_streaming() { "stream" } else { "" };
        let alpha = list(&marks(&method.options(), &[("alpha_method", "alpha")]));
        facts.push(format!("service {}: {} {stream} {alpha}", service.name(), method.name()));
    }
    facts
}

/// Which of these options are set, by the list's words for them.
fn marks<'a>(options: &DynamicMessage, known: &[(&str, &'a str)]) -> Vec<&'a str> {
    let pool = options.descriptor().parent_pool().clone();
    let set = |name: &str| {
        let option = pool.get_extension_by_name(&format!("{PACKAGE}.{name}")).expect(name);
        matches!(*options.get_extension(&option), Value::Bool(true))
    };
    known.iter().filter(|(name, _)| set(name)).map(|&(_, word)| word).collect()
}

/// Marks as the list has them.
fn list(marks: &[&str]) -> String {
    format!("{marks:?}").replace('"', "'")
}

/// A name as the list has it: without our package, or with a leading dot.
fn relative(full_name: &str) -> String {
    match full_name.strip_prefix(PACKAGE).and_then(|rest| rest.strip_prefix('.')) {
        Some(rest) => rest.to_owned(),
        None => format!(".{full_name}"),
    }
}

#[test]
fn csi_is_what_the_list_says() {
    let (listed, ours) = (listed(), ours(&pool()));
    let missing: Vec<_> = listed.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&listed).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\nextra: {extra:#?}");
    assert!(listed.len() > 350, "the list is {} facts only", listed.len());
}

#[test]
fn csi_has_these_oneofs() {
    let pool = pool();
    let oneofs: BTreeSet<_> = pool
        .all_messages()
        .filter(|m| m.package_name() == PACKAGE)
        .flat_map(|m| m.oneofs().collect::<Vec<_>>())
        .map(|o| {
            let fields: Vec<_> = o.fields().map(|f| f.name().to_owned()).collect();
            format!("{}: {}", relative(o.full_name()), fields.join(", "))
        })
        .collect();
    let expected = [
        "ControllerServiceCapability.type: rpc",
        "GroupControllerServiceCapability.type: rpc",
        "NodeServiceCapability.type: rpc",
        "PluginCapability.type: service, volume_expansion",
        "VolumeCapability.access_type: block, mount",
        "VolumeContentSource.type: snapshot, volume",
    ];
    assert_eq!(oneofs, expected.map(str::to_owned).into());
}

/// The options go by number on the wire, and other tools look for these.
#[test]
fn options_have_their_numbers() {
    let pool = pool();
    let options: BTreeSet<_> = pool
        .all_extensions()
        .inspect(|e| assert_eq!(e.kind(), Kind::Bool))
        .map(|e| format!("{} {} {}", e.containing_message().name(), e.name(), e.number()))
        .collect();
    let expected = [
        "EnumOptions alpha_enum 1060",
        "EnumValueOptions alpha_enum_value 1060",
        "FieldOptions alpha_field 1060",
        "FieldOptions csi_secret 1059",
        "MessageOptions alpha_message 1060",
        "MethodOptions alpha_method 1060",
        "ServiceOptions alpha_service 1060",
    ];
    assert_eq!(options, expected.map(str::to_owned).into());
}

/// A secret under another name would escape the list; these are all there are in our own protocol.
#[test]
fn windlass_secrets_are_marked() {
    let pool = pool();
    let secrets: BTreeSet<_> = pool
        .all_messages()
        .filter(|m| m.package_name() == "windlass.v1")
        .flat_map(|m| m.fields().collect::<Vec<_>>())
        .filter(|f| !marks(&f.options(), &[("csi_secret", "secret")]).is_empty())
        .map(|f| f.full_name().to_owned())
        .collect();
    let expected = [
        // Who knows these has what they name.
        "AbortTargetRequest.target_id",
        "CommitTargetRequest.target_id",
        "HeldTarget.descriptor_token",
        "HeldTarget.target_id",
        "LeaseSnapshotResponse.descriptor_token",
        "LeaseSnapshotResponse.lease_id",
        "ListAllocatedRequest.lease_id",
        "ListChangedRequest.lease_id",
        "RepositoryAccess.environment",
        "RepositoryAccess.password",
    ];
    assert_eq!(secrets, expected.map(|field| format!("windlass.v1.{field}")).into());
}
