//! ALLOCATION queries of elements that hold frames.

use gst_video::VideoInfo;

/// Asks upstream for `extra` more buffers in an answered ALLOCATION query, so that a source with a fixed
/// number of buffers does not run out of them.
pub(crate) fn reserve(query: &mut gst::QueryRef, extra: u32) {
    let gst::QueryViewMut::Allocation(allocation) = query.view_mut() else { return };
    let pools = allocation.allocation_pools().collect::<Vec<_>>();
    for (index, (pool, size, min, max)) in (0..).zip(&pools) {
        let more = |count: u32| if count == 0 { 0 } else { count.saturating_add(extra) };
        allocation.set_nth_allocation_pool(index, pool.as_ref(), *size, min.saturating_add(extra), more(*max));
    }
    if pools.is_empty() {
        let (Some(caps), _) = allocation.get_owned() else { return };
        if let Ok(info) = VideoInfo::from_caps(&caps) {
            allocation.add_allocation_pool(None::<&gst::BufferPool>, info.size() as u32, extra, 0);
        }
    }
}
