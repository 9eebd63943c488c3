//! The known detector families, with one description each.
//!
//! To add a family, describe it in a file of this directory and add it to [`FAMILIES`]. Recognition
//! and decoding, on the CPU and in the device graph, use the description and need no other change.

mod insightface;
mod retinaface;
mod scrfd;
mod ssh;
mod yunet;

#[cfg(test)]
pub(crate) use insightface::INSIGHTFACE;
#[cfg(test)]
pub(crate) use retinaface::RETINAFACE;
#[cfg(test)]
pub(crate) use scrfd::{SCRFD, SCRFD_BOXES};
#[cfg(test)]
pub(crate) use yunet::YUNET;

use super::layout::Family;

/// All known families.
pub const FAMILIES: [Family; 6] =
    [retinaface::RETINAFACE, insightface::INSIGHTFACE, ssh::SSH, scrfd::SCRFD, scrfd::SCRFD_BOXES, yunet::YUNET];

/// The names of all families, for messages.
pub(crate) fn names() -> String {
    FAMILIES.map(|family| family.name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Head, Role};
    use super::*;

    #[test]
    fn each_head_has_the_shape_of_its_role_level_and_arrangement() {
        let layout = INSIGHTFACE.layout();
        let heads = layout.heads();
        assert_eq!(heads.len(), 9);
        assert_eq!(heads[0], Head { role: Role::Score, level: Some(0) });
        // 70 x 50 at stride 8, with the number of cells rounded up and two anchors.
        assert_eq!(layout.shape(heads[0], 70, 50), [4, 7, 9]);
        assert_eq!(layout.shape(heads[3], 70, 50), [8, 7, 9]);
        assert_eq!(layout.shape(heads[8], 70, 50), [20, 2, 3]);
        let layout = RETINAFACE.layout();
        let shapes = layout.heads().into_iter().map(|head| layout.shape(head, 640, 640)).collect::<Vec<_>>();
        assert_eq!(shapes, [[16_800, 2], [16_800, 4], [16_800, 10]]);
        let layout = YUNET.layout();
        assert_eq!(layout.heads().len(), 12);
        assert_eq!(layout.shape(layout.heads()[4], 640, 640), [1600, 1]);
    }
}
