//! Committed descriptions of pads and properties: a snapshot for reviews, and user documentation.
//!
//! `make docs` writes both files from the GStreamer registry.

use std::fmt::Write as _;
use std::path::Path;

use gst::glib;
use gst::glib::{ParamFlags, ParamSpec, ParamSpecFloat, ParamSpecUInt};
use gst::prelude::*;

use crate::common::{self, project};

/// The order of elements in the files. Elements that are not listed follow in the order of their names.
const ORDER: [&str; 5] = ["retinaface", "facelandmarks", "facealign", "facemetaoverlay", "facemetapublish"];

/// The names of all elements that the plugin registers.
fn elements() -> Vec<String> {
    let plugin = gst::ElementFactory::find("retinaface").unwrap().plugin().unwrap();
    let features = gst::Registry::get().features_by_plugin(&plugin.plugin_name());
    let factories = features.iter().filter_map(|feature| feature.downcast_ref::<gst::ElementFactory>());
    let mut names = factories.map(|factory| factory.name().to_string()).collect::<Vec<_>>();
    names.sort_by_key(|name| (ORDER.iter().position(|first| first == name).unwrap_or(ORDER.len()), name.clone()));
    assert!(ORDER.iter().all(|name| names.iter().any(|found| found == name)), "{names:?}");
    names
}

/// Asserts that `file` contains `text`. With UPDATE_SNAPSHOTS=1, writes it first.
fn assert_committed(file: &Path, text: &str) {
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert!(committed == text, "{} is stale; run `make docs` and review the difference\n{text}", file.display());
}

/// The properties of the element without those of its base classes.
fn properties(element: &gst::Element) -> Vec<ParamSpec> {
    let properties = element.list_properties().iter().cloned().collect::<Vec<_>>();
    properties.into_iter().filter(|property| property.owner_type() == element.type_()).collect()
}

/// The caps of a pad template, without those of the feature `cuda-memory`.
fn caps(template: &gst::StaticPadTemplate) -> Vec<String> {
    let caps = template.caps().to_string();
    caps.split("; ").filter(|caps| !caps.contains("memory:CUDAMemory")).map(str::to_owned).collect()
}

fn access(property: &ParamSpec) -> &'static str {
    match property.flags() {
        flags if !flags.contains(ParamFlags::WRITABLE) => "read only",
        flags if flags.contains(gst::PARAM_FLAG_MUTABLE_PLAYING) => "while playing",
        _ => "when stopped",
    }
}

fn default_value(property: &ParamSpec) -> String {
    if !property.flags().contains(ParamFlags::WRITABLE) {
        return "none".to_owned();
    }
    property.default_value().serialize().map_or_else(|_| "none".to_owned(), |text| text.to_string())
}

/// Minimum and maximum of a number.
fn value_range(property: &ParamSpec) -> Option<String> {
    let unsigned =
        property.downcast_ref::<ParamSpecUInt>().map(|spec| format!("{}..={}", spec.minimum(), spec.maximum()));
    unsigned.or_else(|| {
        let float = property.downcast_ref::<ParamSpecFloat>();
        float.map(|spec| format!("{}..={}", spec.minimum(), spec.maximum()))
    })
}

#[test]
fn snapshot_of_pads_and_properties_is_up_to_date() {
    common::init();
    let mut text = String::new();
    for name in elements() {
        let element = gst::ElementFactory::make(&name).build().unwrap();
        let factory = element.factory().unwrap();
        let (long_name, class) = (factory.metadata("long-name").unwrap(), factory.metadata("klass").unwrap());
        writeln!(text, "{name}: {long_name} ({class})").unwrap();
        for template in factory.static_pad_templates() {
            let (direction, presence) = (template.direction(), template.presence());
            writeln!(text, "  pad {} {direction:?} {presence:?}", template.name_template()).unwrap();
            caps(&template).iter().for_each(|caps| writeln!(text, "    {caps}").unwrap());
        }
        for property in properties(&element) {
            let range = value_range(&property).map(|range| format!(", {range}")).unwrap_or_default();
            let (value_type, default, access) = (property.value_type(), default_value(&property), access(&property));
            writeln!(text, "  {} {value_type} = {default}{range}, {access}", property.name()).unwrap();
            writeln!(text, "    {}", property.blurb().unwrap()).unwrap();
        }
        text += "\n";
    }
    assert_committed(&project::root().join("tests/fixtures/elements.txt"), &text);
}

/// Removes digits beyond the precision of a 32-bit float from a number.
fn shorten_float(text: &str) -> String {
    text.parse::<f32>().map_or_else(|_| text.to_owned(), |number| number.to_string())
}

/// The values of an enumeration, as `nick`: description.
fn enum_values(property: &ParamSpec) -> Vec<(String, String)> {
    let class = glib::EnumClass::with_type(property.value_type());
    let values = class.iter().flat_map(|class| class.values());
    values.map(|value| (value.nick().to_owned(), value.name().to_owned())).collect()
}

fn type_name(property: &ParamSpec) -> &'static str {
    match property.value_type() {
        kind if kind.is_a(glib::Type::ENUM) => "enum",
        glib::Type::BOOL => "boolean",
        glib::Type::U32 => "unsigned",
        glib::Type::F32 => "float",
        glib::Type::STRING => "string",
        _ => "structure",
    }
}

#[test]
fn element_documentation_is_up_to_date() {
    common::init();
    let root = project::root();
    let mut text = "# Elements\n\n<!-- `make docs` generates this file from the GStreamer registry and docs/elements/. Do not edit it. \
                    -->\n\nAll properties can be changed in the PLAYING state, except those that the tables mark with *stopped*: \
                    these are\nread when the element starts.\n"
        .to_owned();
    for name in elements() {
        let element = gst::ElementFactory::make(&name).build().unwrap();
        let factory = element.factory().unwrap();
        let introduction = std::fs::read_to_string(root.join(format!("docs/elements/{name}.md"))).unwrap();
        let description = factory.metadata("description").unwrap();
        write!(text, "\n## {name}\n\n{description}.\n\n{}\n", introduction.trim()).unwrap();
        text += "\n### Pads\n\n";
        for template in factory.static_pad_templates() {
            let caps = caps(&template).iter().map(|caps| format!("`{caps}`")).collect::<Vec<_>>().join(", ");
            writeln!(text, "- `{}` ({:?}): {caps}", template.name_template(), template.presence()).unwrap();
        }
        text += "\n### Properties\n\n| property | type | default | set | description |\n|---|---|---|---|---|\n";
        for property in properties(&element) {
            let default = shorten_float(&default_value(&property));
            let range = value_range(&property).map(|range| format!(", {range}")).unwrap_or_default();
            let set = match access(&property) {
                "read only" => "read only",
                "while playing" => "any time",
                _ => "stopped",
            };
            let mut description = property.blurb().unwrap().replace('|', "\\|");
            for (nick, value) in enum_values(&property) {
                write!(description, "<br>`{nick}`: {value}").unwrap();
            }
            let kind = type_name(&property);
            writeln!(text, "| `{}` | {kind}{range} | `{default}` | {set} | {description} |", property.name()).unwrap();
        }
    }
    assert_committed(&root.join("docs/elements.md"), &text);
}
