//! The module graph of the core library: no module imports a module of the same or a higher level,
//! and the files of a module do not import each other in a cycle. docs/architecture.md shows the
//! graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common;

/// The modules of the library by their level. A module imports only modules of lower levels.
const LEVELS: [&[&str]; 6] = [
    &["geometry", "sync"],
    &["image", "model", "track"],
    &["record"],
    &["runtime"],
    &["inference"],
    &["detect", "crops"],
];

fn level(module: &str) -> usize {
    let level = LEVELS.iter().position(|modules| modules.contains(&module));
    level.unwrap_or_else(|| panic!("src/{module} has no level: add it to LEVELS in tests/core/architecture.rs"))
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A source file without its comments and unit tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split_once("#[cfg(test)]\nmod tests {").map_or(&*text, |(code, _)| code);
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// The module path of a file below `src`: `model/families/mod.rs` is `model::families`.
fn module_path(relative: &Path) -> Vec<String> {
    let path = relative.with_extension("");
    let mut path = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    path.pop_if(|name| name == "mod");
    path
}

/// Adds the paths of a use tree, such as `a::{b, c::d}`, to `found`. Returns the rest of the code.
fn use_tree<'a>(mut code: &'a str, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    loop {
        code = code.trim_start();
        if let Some(mut group) = code.strip_prefix('{') {
            while !group.trim_start().starts_with('}') {
                group = use_tree(group, path.clone(), found).trim_start();
                group = group.strip_prefix(',').unwrap_or(group);
            }
            return &group.trim_start()[1..];
        }
        if code.starts_with('*') {
            break;
        }
        let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
        path.push(code[..end].to_owned());
        code = &code[end..];
        match code.strip_prefix("::") {
            Some(rest) => code = rest,
            None => break,
        }
    }
    found.push(path);
    // `as name` and `*`.
    &code[code.find([',', '}', ';']).unwrap_or(code.len())..]
}

/// The absolute paths, without `crate`, of what a file with this module path imports.
fn imports(code: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let mut found = Vec::new();
    for keyword in ["crate::", "super::"] {
        for (start, _) in code.match_indices(keyword) {
            // Part of a longer identifier or path, such as `my_crate::` or `super::super::`.
            if !code[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
                use_tree(&code[start..], Vec::new(), &mut found);
            }
        }
    }
    let absolute = found.into_iter().map(|path| {
        let supers = path.iter().take_while(|name| *name == "super").count();
        let base = if supers == 0 { &[][..] } else { &module[..module.len() - supers] };
        base.iter().chain(&path[supers.max(1)..]).cloned().collect()
    });
    absolute.collect()
}

/// Each file of the library with its module path and imports.
fn library() -> Vec<(PathBuf, Vec<String>, BTreeSet<Vec<String>>)> {
    let source = common::root().join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    files.retain(|file| *file != source.join("lib.rs"));
    let file = |path: PathBuf| {
        let module = module_path(path.strip_prefix(&source).unwrap());
        let imports = imports(&code(&path), &module);
        (path, module, imports)
    };
    files.into_iter().map(file).collect()
}

#[test]
fn modules_import_only_lower_levels() {
    let mut checked = 0;
    for (file, module, imports) in library() {
        for import in imports {
            let is_module = LEVELS.iter().any(|modules| modules.contains(&import[0].as_str()));
            assert!(is_module, "{}: `crate::{}` is not a module of the library", file.display(), import[0]);
            assert!(
                import[0] == module[0] || level(&import[0]) < level(&module[0]),
                "{} imports `crate::{}`, which is not below `{}`",
                file.display(),
                import.join("::"),
                module[0]
            );
            checked += usize::from(import[0] != module[0]);
        }
    }
    assert!(checked > 40, "only {checked} imports were found");
}

/// A cycle that is reachable from `file`, as the files on the path.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>, file: &str, path: &mut Vec<String>) -> Option<Vec<String>> {
    if let Some(start) = path.iter().position(|visited| visited == file) {
        return Some(path[start..].to_vec());
    }
    path.push(file.to_owned());
    let found = graph[file].iter().find_map(|next| cycle(graph, next, path));
    path.pop();
    found
}

#[test]
fn files_of_a_module_have_no_import_cycle() {
    // For each directory: which of its files and subdirectories import which others.
    let mut graphs = BTreeMap::<Vec<String>, BTreeMap<String, BTreeSet<String>>>::new();
    let library = library();
    for (_, module, _) in &library {
        for depth in 1..module.len() {
            graphs.entry(module[..depth].to_vec()).or_default().entry(module[depth].clone()).or_default();
        }
    }
    for (_, module, imports) in &library {
        for depth in 1..module.len() {
            let (directory, name) = (&module[..depth], &module[depth]);
            let graph = graphs.get_mut(directory).unwrap();
            let siblings = imports.iter().filter(|import| import.starts_with(directory) && import.len() > depth);
            let siblings = siblings.map(|import| &import[depth]).filter(|sibling| *sibling != name);
            let siblings = siblings.filter(|sibling| graph.contains_key(*sibling)).cloned().collect::<Vec<_>>();
            graph.get_mut(name).unwrap().extend(siblings);
        }
    }
    for (directory, graph) in &graphs {
        for file in graph.keys() {
            let found = cycle(graph, file, &mut Vec::new());
            assert_eq!(found, None, "import cycle in src/{}", directory.join("/"));
        }
    }
    let edges = graphs.values().flat_map(BTreeMap::values).map(BTreeSet::len).sum::<usize>();
    assert!(edges > 60, "only {edges} imports between files were found");
}

#[test]
fn imports_are_found_in_groups_and_paths() {
    let found = |code: &str, module: &str| {
        let module = module.split("::").map(str::to_owned).collect::<Vec<_>>();
        imports(code, &module).into_iter().map(|path| path.join("::")).collect::<Vec<_>>()
    };
    let code = "use crate::{a::{b, c as d}, detect, e::*};\nlet x = crate::image::view(my_crate::y);";
    assert_eq!(found(code, "model::spec"), ["a::b", "a::c", "detect", "e", "image::view"]);
    let code = "use super::super::overrides::{Key, Overrides};\nuse super::scrfd;\npub(super) fn f() {}";
    let expected = ["model::families::scrfd", "model::overrides::Key", "model::overrides::Overrides"];
    assert_eq!(found(code, "model::families::ssh"), expected);
}

#[test]
fn cycles_are_found() {
    let graph = BTreeMap::from([("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b"])]);
    let graph = graph
        .into_iter()
        .map(|(file, imports)| (file.to_owned(), imports.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()));
    let graph = graph.collect::<BTreeMap<_, _>>();
    assert_eq!(cycle(&graph, "a", &mut Vec::new()), Some(vec!["b".to_owned(), "c".to_owned()]));
}

/// Debug assertions are listed for each crate.
#[test]
fn tests_of_every_crate_have_debug_assertions() {
    let profile = std::fs::read_to_string(common::root().join(".cargo/test.toml")).unwrap();
    let crates = std::fs::read_dir(common::root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    for directory in crates.chain([common::root().join("plugins/retinaface"), common::root()]) {
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let package = manifest.split_once("[package]\nname = \"").and_then(|(_, rest)| rest.split_once('"'));
        let section = format!("[profile.release.package.{}]", package.unwrap().0);
        assert!(profile.contains(&section), ".cargo/test.toml has no section {section}");
    }
}
