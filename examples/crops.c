/* Writes the aligned crops of a video as PPM files and prints where each comes from.
 *
 *     cc examples/crops.c -o crops-c $(pkg-config --cflags --libs gstreamer-1.0 gstreamer-app-1.0)
 *     . ./env.sh
 *     ./crops-c clip.mp4 crops
 *
 * A line has the time of the frame, the score, the box (x, y, width and height), the nose tip in the
 * frame and in the crop, and the file:
 *
 *     0.000 s  score 0.9998  box 192.6 147.6 179.5 252.1  nose 264.2 298.0 -> 52.8 77.0  crop-00000.ppm
 *
 * docs/metadata.md lists the fields of the metadata. Exit status: 0 success, 1 an error, 2 wrong usage.
 */

#include <gst/app/gstappsink.h>
#include <gst/gst.h>
#include <math.h>
#include <stdio.h>

/* Takes a video in any format and any orientation. videoconvert copies no frame in a format that the next
 * element takes. With a full queue, appsink lets the pipeline wait: no crop is lost. */
static const char *const PIPELINE =
    "uridecodebin name=source ! videoconvert ! videoflip video-direction=auto ! videoconvert "
    "! retinaface ! facealign ! video/x-raw,format=RGB ! appsink name=crops sync=false max-buffers=16";

/* Reads an array of COUNT doubles. FALSE if the field does not exist or is something else. */
static gboolean
get_doubles (const GstStructure *structure, const char *field, double *out, guint count)
{
  const GValue *array = gst_structure_get_value (structure, field);
  if (!array || !GST_VALUE_HOLDS_ARRAY (array) || gst_value_array_get_size (array) != count)
    return FALSE;
  for (guint i = 0; i < count; i++) {
    const GValue *value = gst_value_array_get_value (array, i);
    if (!G_VALUE_HOLDS_DOUBLE (value))
      return FALSE;
    out[i] = g_value_get_double (value);
  }
  return TRUE;
}

/* Prints the origin of a crop. The structures belong to the buffer: nothing is freed here. */
static gboolean
print_origin (GstBuffer *buffer, const char *name)
{
  GstCustomMeta *meta = gst_buffer_get_custom_meta (buffer, "RetinaFaceCropMeta");
  if (!meta)
    return FALSE;
  const GstStructure *origin = gst_custom_meta_get_structure (meta);
  const GValue *value = gst_structure_get_value (origin, "face");
  if (!value || !GST_VALUE_HOLDS_STRUCTURE (value))
    return FALSE;
  const GstStructure *face = gst_value_get_structure (value);

  guint64 pts;
  double score, box[4], landmarks[10], matrix[6];
  /* A frame can have no time. The landmarks are two eyes, nose tip and two mouth corners, x and y of each. */
  double time = gst_structure_get_uint64 (origin, "frame-pts", &pts) ? pts / 1e9 : NAN;
  if (!gst_structure_get_double (face, "score", &score) || !get_doubles (face, "box", box, 4)
      || !get_doubles (face, "landmarks", landmarks, 10) || !get_doubles (origin, "crop-from-frame", matrix, 6))
    return FALSE;
  double x = landmarks[4], y = landmarks[5];
  double crop_x = matrix[0] * x + matrix[1] * y + matrix[2];
  double crop_y = matrix[3] * x + matrix[4] * y + matrix[5];
  g_print ("%.3f s  score %.4f  box %.1f %.1f %.1f %.1f", time, score, box[0], box[1], box[2], box[3]);
  g_print ("  nose %.1f %.1f -> %.1f %.1f  %s\n", x, y, crop_x, crop_y, name);
  return TRUE;
}

/* Writes the pixels of a crop as a PPM file. */
static gboolean
write_pixels (GstSample *sample, const char *path)
{
  GstBuffer *buffer = gst_sample_get_buffer (sample);
  const GstStructure *caps = gst_caps_get_structure (gst_sample_get_caps (sample), 0);
  GstMapInfo map;
  int width, height;
  if (!gst_structure_get_int (caps, "width", &width) || !gst_structure_get_int (caps, "height", &height)
      || !gst_buffer_map (buffer, &map, GST_MAP_READ))
    return FALSE;
  FILE *file = fopen (path, "wb");
  gboolean written = file && fprintf (file, "P6\n%d %d\n255\n", width, height) > 0;
  /* GStreamer pads the rows of RGB to a multiple of four bytes. */
  gsize stride = GST_ROUND_UP_4 (3 * (gsize) width);
  for (int row = 0; written && row < height; row++)
    written = fwrite (map.data + row * stride, 3, width, file) == (gsize) width;
  gst_buffer_unmap (buffer, &map);
  if (file && fclose (file) != 0)
    written = FALSE;
  return written;
}

static gboolean
write_crop (GstSample *sample, const char *directory, int number)
{
  char *name = g_strdup_printf ("crop-%05d.ppm", number);
  char *path = g_build_filename (directory, name, NULL);
  gboolean known = print_origin (gst_sample_get_buffer (sample), name);
  gboolean written = known && write_pixels (sample, path);
  if (!known)
    g_printerr ("crops: %s: the crop has no complete RetinaFaceCropMeta\n", name);
  else if (!written)
    g_printerr ("crops: %s: cannot be written\n", path);
  g_free (path);
  g_free (name);
  return written;
}

/* Writes all crops until the end of the stream. FALSE after an error, which is printed. */
static gboolean
write_crops (GstElement *pipeline, GstAppSink *sink, const char *video, const char *directory)
{
  GstBus *bus = gst_element_get_bus (pipeline);
  gboolean good = TRUE;
  for (int number = 0; good;) {
    GstSample *sample = gst_app_sink_try_pull_sample (sink, 100 * GST_MSECOND);
    if (sample) {
      good = write_crop (sample, directory, number++);
      gst_sample_unref (sample);
      continue;
    }
    GstMessage *message = gst_bus_pop_filtered (bus, GST_MESSAGE_ERROR);
    if (message) {
      GError *error = NULL;
      gst_message_parse_error (message, &error, NULL);
      g_printerr ("crops: %s: %s\n", video, error->message);
      g_error_free (error);
      gst_message_unref (message);
      good = FALSE;
    } else if (gst_app_sink_is_eos (sink)) {
      break;
    }
  }
  gst_object_unref (bus);
  return good;
}

int
main (int argc, char **argv)
{
  gst_init (&argc, &argv);
  if (argc != 3) {
    g_printerr ("usage: %s VIDEO_OR_URI DIRECTORY\n", argv[0]);
    return 2;
  }
  if (g_mkdir_with_parents (argv[2], 0777) != 0) {
    g_printerr ("crops: %s: cannot be created\n", argv[2]);
    return 1;
  }
  GError *error = NULL;
  char *uri = gst_uri_is_valid (argv[1]) ? g_strdup (argv[1]) : gst_filename_to_uri (argv[1], &error);
  GstElement *pipeline = uri ? gst_parse_launch (PIPELINE, &error) : NULL;
  if (error) {
    g_printerr ("crops: %s: %s\n", argv[1], error->message);
    return 1;
  }
  GstElement *source = gst_bin_get_by_name (GST_BIN (pipeline), "source");
  GstElement *sink = gst_bin_get_by_name (GST_BIN (pipeline), "crops");
  g_object_set (source, "uri", uri, NULL);

  /* If the start fails, the bus has the reason. */
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  gboolean good = write_crops (pipeline, GST_APP_SINK (sink), argv[1], argv[2]);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (sink);
  gst_object_unref (source);
  gst_object_unref (pipeline);
  g_free (uri);
  return good ? 0 : 1;
}
