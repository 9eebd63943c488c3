//! Records the commit and date that `plugin_define!` shows.

fn main() {
    gst_plugin_version_helper::info();
}
