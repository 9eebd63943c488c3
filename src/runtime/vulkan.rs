//! The devices of the installed Vulkan drivers, on which WebGPU runs.

use ash::vk;

/// A device of a Vulkan driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VulkanDevice {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is a GPU, and not a driver that runs on the processor.
    pub(crate) is_hardware: bool,
    /// Bytes of its own memory.
    pub(crate) memory: u64,
}

/// The devices of all drivers; empty if there is no Vulkan loader or no driver.
#[expect(unsafe_code, reason = "loads the Vulkan loader and its drivers; the instance outlives the calls that use it")]
pub(crate) fn vulkan_devices() -> Vec<VulkanDevice> {
    unsafe {
        let Ok(entry) = ash::Entry::load() else { return Vec::new() };
        let Ok(instance) = entry.create_instance(&vk::InstanceCreateInfo::default(), None) else { return Vec::new() };
        let devices = instance.enumerate_physical_devices().unwrap_or_default().into_iter().map(|device| {
            let properties = instance.get_physical_device_properties(device);
            let memory = instance.get_physical_device_memory_properties(device);
            let heaps = memory.memory_heaps_as_slice().iter();
            let own = heaps.filter(|heap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
            VulkanDevice {
                name: properties.device_name_as_c_str().unwrap_or_default().to_string_lossy().into_owned(),
                is_hardware: properties.device_type != vk::PhysicalDeviceType::CPU,
                memory: own.map(|heap| heap.size).sum(),
            }
        });
        let devices = devices.collect();
        instance.destroy_instance(None);
        // Drivers can leave threads behind, so that they are not unloaded.
        std::mem::forget(entry);
        devices
    }
}
