//! The module graph of the core library: no module imports a module of the same or a higher level,
//! and the files of a module do not import each other in a cycle. docs/architecture.md shows the
//! graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common;

/// The modules of the library by their level. A module imports only modules of lower levels.
const LEVELS: [&[&str]; 5] =
    [&["geometry", "sync"], &["image", "model", "record"], &["runtime"], &["inference"], &["detect", "crops"]];

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

/// A source file without its comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first identifiers of the paths that begin with `prefix`, also in a group of braces.
fn imports(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices(prefix) {
        // Part of a longer identifier or path, such as `my_crate::`.
        if code[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
            continue;
        }
        let rest = &code[start + prefix.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split_once('}').map_or(group, |(group, _)| group).split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name = name.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            found.insert(name.to_owned());
        }
    }
    found
}

#[test]
fn modules_import_only_lower_levels() {
    let source = common::root().join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 40, "only {} source files were found", files.len());
    let mut checked = 0;
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        for imported in imports(&code(&file), "crate::") {
            let is_module = LEVELS.iter().any(|modules| modules.contains(&imported.as_str()));
            assert!(is_module, "{}: `crate::{imported}` is not a module of the library", relative.display());
            assert!(
                imported == module || level(&imported) < level(module),
                "{} imports `crate::{imported}`, which is not below `{module}`",
                relative.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} imports were found");
}

/// The files of a module that each of its files imports.
fn file_graph(directory: &Path, module: &str) -> BTreeMap<String, BTreeSet<String>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let files = entries.filter(|path| path.is_dir() || name(path) != "mod").collect::<Vec<_>>();
    let names = files.iter().map(|path| name(path)).collect::<BTreeSet<_>>();
    let graph = files.iter().map(|path| {
        let mut sources = Vec::new();
        if path.is_dir() {
            rust_files(path, &mut sources);
        } else {
            sources.push(path.clone());
        }
        let mut imported = BTreeSet::new();
        for source in sources {
            let code = code(&source);
            // In a directory of its own, `super` of the inner files is that directory.
            let inner = path.is_dir() && source.file_stem().unwrap() != "mod";
            if !inner {
                imported.extend(imports(&code, "super::"));
            }
            imported.extend(imports(&code, &format!("crate::{module}::")));
        }
        imported.retain(|import| names.contains(import) && *import != name(path));
        (name(path), imported)
    });
    graph.collect()
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
    let source = common::root().join("src");
    let mut modules = LEVELS.concat();
    modules.retain(|module| source.join(module).is_dir());
    let mut edges = 0;
    for module in modules.iter().map(|module| (*module).to_owned()).chain(["runtime/kernels".to_owned()]) {
        let graph = file_graph(&source.join(&module), &module.replace('/', "::"));
        edges += graph.values().map(BTreeSet::len).sum::<usize>();
        for file in graph.keys() {
            let found = cycle(&graph, file, &mut Vec::new());
            assert_eq!(found, None, "import cycle in src/{module}");
        }
    }
    assert!(edges > 30, "only {edges} imports between files were found");
}

#[test]
fn imports_are_found_in_groups_and_paths() {
    let code =
        "use crate::model::{Face, Point};\nuse crate::{image, runtime};\nlet x = crate::detect::view(my_crate::y);";
    let found = imports(code, "crate::");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["detect", "image", "model", "runtime"]);
    let graph = BTreeMap::from([("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["b"])]);
    let graph = graph
        .into_iter()
        .map(|(file, imports)| (file.to_owned(), imports.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()));
    let graph = graph.collect::<BTreeMap<_, _>>();
    assert_eq!(cycle(&graph, "a", &mut Vec::new()), Some(vec!["b".to_owned(), "c".to_owned()]));
}
