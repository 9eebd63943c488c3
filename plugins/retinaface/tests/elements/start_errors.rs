//! What keeps `retinaface` from starting: models, properties and execution providers.

use crate::common::{PipelineError, fixture_model, project, quoted, run, try_run, with_watchdog};

/// The error of a pipeline that fails to start or to continue.
fn pipeline_error(elements: &str) -> PipelineError {
    let error =
        try_run(&format!("videotestsrc num-buffers=3 ! video/x-raw,width=160,height=90 ! {elements} ! fakesink"));
    error.expect_err("the pipeline fails")
}

pub(crate) fn assert_contains(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn missing_model_is_a_start_error() {
    with_watchdog(|| {
        let error = pipeline_error("retinaface model-file=/nowhere/model.onnx");
        error.assert_code(gst::ResourceError::NotFound);
        assert_contains(&error.text, &["/nowhere/model.onnx", "No such file", "set model-file"]);
        let error = pipeline_error("retinaface model-file=/tmp");
        error.assert_code(gst::ResourceError::OpenRead);
        assert_contains(&error.text, &["/tmp", "cannot be read"]);
    });
}

#[test]
fn non_onnx_file_is_a_start_error() {
    with_watchdog(|| {
        let directory = tempfile::tempdir().unwrap();
        let model = std::fs::read(project::default_model()).unwrap();
        for (name, bytes) in
            [("text.onnx", b"# not a model".as_slice()), ("cut.onnx", &model[..100_000]), ("empty.onnx", b"")]
        {
            let file = directory.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            let error = pipeline_error(&format!("retinaface model-file={}", quoted(&file)));
            error.assert_code(gst::StreamError::WrongType);
            assert_contains(&error.text, &[name, "not an ONNX file"]);
        }
    });
}

#[test]
fn unsupported_model_error_lists_found_and_expected_tensors() {
    with_watchdog(|| {
        for (name, parts) in [
            ("embedding512_faceplugin.onnx", ["`output` [1, 512]", "known families are RetinaFace"]),
            ("landmarks68_faceplugin.onnx", ["(1, 1, 64, 64)", "[N, 3, height, width]"]),
        ] {
            if let Some(model) = project::shared(&format!("models/{name}")) {
                let error = pipeline_error(&format!("retinaface model-file={}", quoted(&model)));
                error.assert_code(gst::StreamError::WrongType);
                assert_contains(&error.text, &parts);
            }
        }
    });
}
#[test]
fn invalid_property_error_names_the_property() {
    with_watchdog(|| {
        for (property, problem) in [
            ("scales=1.0,big", "`big` is not a number"),
            ("tiles=many", "as in 3x2"),
            ("roi=1,2,3", "x,y,width,height"),
            ("model-options=mean=red", "`red` is not a number"),
            ("model-options=colour=red", "unknown key"),
        ] {
            let name = property.split('=').next().unwrap();
            let error = pipeline_error(&format!("retinaface {property}"));
            error.assert_code(gst::ResourceError::Settings);
            assert_contains(&error.text, &[name, problem]);
        }
        let error = pipeline_error(&format!("retinaface model-file={}", fixture_model("bad_metadata.onnx")));
        error.assert_code(gst::ResourceError::Settings);
        assert_contains(&error.text, &["model option mean=red", "metadata"]);
    });
}

#[test]
fn unavailable_provider_is_an_error_and_auto_uses_cpu() {
    with_watchdog(|| {
        for (provider, option) in [
            ("openvino", "openvino"),
            ("webgpu", "webgpu"),
            ("cuda", "cuda"),
            ("tensorrt", "cuda"),
            ("nv-tensorrt-rtx", "tensorrt-rtx"),
        ] {
            let error = pipeline_error(&format!("retinaface execution-provider={provider}"));
            error.assert_code(gst::ResourceError::Settings);
            assert_contains(&error.text, &[provider, "not available", &format!("scripts/setup.sh --{option}")]);
        }
        run(
            "videotestsrc num-buffers=1 ! retinaface execution-provider=auto ! retinaface execution-provider=cpu ! fakesink",
        );
    });
}
