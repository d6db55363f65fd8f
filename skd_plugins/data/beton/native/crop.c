/* One image of a .beton file: decode the box of a JPEG and no more of it, resize it, flip it, in one pass over its rows.

   The pixels are, to the last bit, those of FFCV's `imdecode` of the whole image (libjpeg-turbo, fast integer DCT, fancy
   upsampling) followed by its `resize` (OpenCV's INTER_AREA). tests/test_decode.py compares the two.

   What is saved: rows above the box are entropy-decoded only, rows below it not at all, MCU columns beside it are not
   transformed, and no image is kept, since each row is resized as it comes. No state outlives a call. */

#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or later is needed: earlier ones have errors in jpeg_skip_scanlines and jpeg_crop_scanline"
#endif

enum { FINE = 0, DAMAGED = 1, OTHER_SIZE = 2, NO_MEMORY = 3, BAD_ARGUMENT = 4 };

typedef float float4 __attribute__((vector_size(16)));
typedef int32_t int4 __attribute__((vector_size(16)));
typedef int16_t short4 __attribute__((vector_size(8)));

/* ------------------------------------------------------------------------------------------------------- resizing

   OpenCV's cv::resize(..., INTER_AREA) for 8-bit RGB, row by row, with its operations in its order: the mean over the
   area where no side grows (whole numbers if both factors are whole), else its bilinear filter with area coefficients.
   Source: OpenCV 4, modules/imgproc/src/resize.cpp (computeResizeAreaTab, ResizeArea_, ResizeAreaFast_, ResizeLinear). */

typedef struct {
  int from, to; /* index in the source and in the result */
  float weight;
} Tap;

typedef enum { COPY, MEAN, AREA, LINEAR } Mode;

typedef struct {
  Mode mode;
  int height, width, out_height, out_width; /* pixels: of the box, of the result */
  uint8_t *out;
  int row;        /* next of the box */
  int done;       /* rows of the result that are written */
  Tap *y;         /* AREA: all taps, ordered by `to`, then `from`. LINEAR: one for each row of the result */
  int taps_y, next_y;
  /* Of the result's pixels as they stand in a row, flipped or not: */
  int *from;      /* the first of the `reach` pixels of the box that it is made of */
  float *weights; /* of each of these [out_width][reach]; 0 behind the last, so that all pixels take the same steps */
  int reach;
  int *sums;      /* MEAN */
  int fx, fy;     /* MEAN: factors */
  float *line, *sum; /* AREA */
  int16_t *lines[2]; /* LINEAR: rows resized horizontally, times 2048 / 16 */
  float *factors; /* LINEAR: the same weights of rows, times 2048, whole numbers [out_height][2] */
  void *memory;
} Resizer;

/* Taps of one axis for AREA; `taps` has room for 2 * size + 2 * out_size. */
static int area_taps(int size, int out_size, double scale, Tap *taps) {
  int count = 0;
  for (int to = 0; to < out_size; to++) {
    double begin = to * scale, end = begin + scale, cell = fmin(scale, size - begin);
    int first = (int)ceil(begin), last = (int)floor(end);
    last = last < size - 1 ? last : size - 1;
    first = first < last ? first : last;
    if (first - begin > 1e-3) taps[count++] = (Tap){first - 1, to, (float)((first - begin) / cell)};
    for (int from = first; from < last; from++) taps[count++] = (Tap){from, to, (float)(1.0 / cell)};
    if (end - last > 1e-3) taps[count++] = (Tap){last, to, (float)(fmin(fmin(end - last, 1.0), cell) / cell)};
  }
  return count;
}

/* Taps of one axis for LINEAR: `weight` belongs to the next pixel (or row), 1 - weight to `from`. */
static void linear_taps(int size, int out_size, double scale, double inverse, Tap *taps) {
  for (int to = 0; to < out_size; to++) {
    int from = (int)floor(to * scale);
    float weight = (float)((to + 1) - (from + 1) * inverse);
    taps[to] = (Tap){from < size ? from : size - 1, to, weight <= 0 ? 0.f : weight - (int)floorf(weight)};
  }
}

/* OpenCV's weights of its bilinear filter are whole numbers, of 2048. */
static float fixed(float weight) { return rintf(weight * 2048.f); }

static int resizer_init(Resizer *r, int height, int width, int out_height, int out_width, int flip, uint8_t *out) {
  *r = (Resizer){.height = height, .width = width, .out_height = out_height, .out_width = out_width, .out = out};
  double inverse_x = (double)out_width / width, inverse_y = (double)out_height / height;
  double scale_x = 1. / inverse_x, scale_y = 1. / inverse_y;
  r->fx = (int)rint(scale_x), r->fy = (int)rint(scale_y);
  int whole = fabs(scale_x - r->fx) < 2.220446049250313e-16 && fabs(scale_y - r->fy) < 2.220446049250313e-16;
  if (height == out_height && width == out_width) r->mode = COPY;
  else if (scale_x >= 1 && scale_y >= 1) r->mode = whole ? MEAN : AREA;
  else r->mode = LINEAR;
  int most = r->mode == AREA ? (int)ceil(scale_x) + 2 : 2; /* pixels that one is made of */

  size_t longer = height > width ? height : width, out_longer = out_height > out_width ? out_height : out_width;
  size_t taps = 2 * (longer + out_longer) + 2, weights = (size_t)out_width * most, values = 3 * (size_t)out_width + 16;
  r->memory = calloc(1, 2 * taps * sizeof(Tap) + out_width * sizeof(int) +
                            (weights + 2 * (size_t)out_height + 2 * values) * sizeof(float));
  if (!r->memory) return NO_MEMORY;
  r->y = r->memory;
  Tap *x = r->y + taps;
  r->from = (int *)(x + taps);
  r->weights = (float *)(r->from + out_width);
  r->factors = r->weights + weights;
  /* Two lines, of which each way of resizing takes what it needs. */
  r->line = r->factors + 2 * out_height, r->sum = r->line + values;
  r->sums = (int *)r->line;
  r->lines[0] = (int16_t *)r->line, r->lines[1] = (int16_t *)r->sum;
  int count = out_width;
  r->reach = 1;
  if (r->mode == AREA) {
    r->taps_y = area_taps(height, out_height, scale_y, r->y);
    count = area_taps(width, out_width, scale_x, x);
    for (int i = 0, n = 0; i < count; i++) {
      n = i && x[i].to == x[i - 1].to ? n + 1 : 1;
      if (n > r->reach) r->reach = n;
    }
  } else if (r->mode == LINEAR) {
    linear_taps(height, out_height, scale_y, inverse_y, r->y);
    linear_taps(width, out_width, scale_x, inverse_x, x);
    for (int i = 0; i < out_height; i++) r->factors[2 * i] = fixed(1.f - r->y[i].weight), r->factors[2 * i + 1] = fixed(r->y[i].weight);
    r->reach = 2;
  } else {
    for (int i = 0; i < out_width; i++) x[i] = (Tap){i * r->fx, i, 1.f};
  }
  for (int i = count - 1; i >= 0; i--) { /* backwards, so that the first of a pixel's taps is the last to be seen */
    r->from[flip ? out_width - 1 - x[i].to : x[i].to] = x[i].from;
  }
  for (int i = 0; i < count; i++) {
    int to = flip ? out_width - 1 - x[i].to : x[i].to;
    float *weight = r->weights + (size_t)to * r->reach + (x[i].from - r->from[to]);
    if (r->mode == LINEAR && x[i].from < width - 1) weight[0] = fixed(1.f - x[i].weight), weight[1] = fixed(x[i].weight);
    else weight[0] = r->mode == LINEAR ? 2048.f : x[i].weight;
  }
  return FINE;
}

/* Four channels of a pixel: the fourth is the next pixel's, or padding, and what becomes of it is overwritten. */
static inline float4 pixel_at(const uint8_t *row, int x) {
  const uint8_t *p = row + 3 * (size_t)x;
#ifdef __SSE4_1__ /* compilers do not find this by themselves */
  int32_t four;
  memcpy(&four, p, 4);
  return (float4)_mm_cvtepi32_ps(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four)));
#else
  return (float4){p[0], p[1], p[2], p[3]};
#endif
}

static inline uint8_t *out_row(Resizer *r) { return r->out + 3 * (size_t)r->out_width * r->done++; }

static void copy_row(Resizer *r, const uint8_t *row) {
  uint8_t *out = out_row(r);
  for (int x = 0; x < r->out_width; x++) memcpy(out + 3 * (size_t)x, row + 3 * (size_t)r->from[x], 3);
}

static void mean_row(Resizer *r, const uint8_t *row) {
  int *restrict sums = r->sums, area = r->fx * r->fy, count = 3 * r->out_width;
  for (int x = 0; x < r->out_width; x++) {
    const uint8_t *pixel = row + 3 * (size_t)r->from[x];
    int *sum = sums + 3 * (size_t)x;
    for (int i = 0; i < r->fx; i++, pixel += 3) sum[0] += pixel[0], sum[1] += pixel[1], sum[2] += pixel[2];
  }
  if ((r->row + 1) % r->fy) return;
  uint8_t *restrict out = out_row(r);
  float part = 1.f / area;
  if (area == 4 && r->fx == 2) /* OpenCV rounds the mean of 2 x 2 up, other means to even */
    for (int i = 0; i < count; i++) out[i] = (uint8_t)((sums[i] + 2) >> 2);
  else
    for (int i = 0; i < count; i++) out[i] = (uint8_t)rintf(sums[i] * part);
  memset(sums, 0, count * sizeof(int));
}

static void area_store(Resizer *r) {
  uint8_t *restrict out = out_row(r);
  const float *restrict sum = r->sum;
  for (int i = 0; i < 3 * r->out_width; i++) { /* rounds to even; no sum is far from 0 to 255 */
    float rounded = (sum[i] + 8388608.f) - 8388608.f;
    out[i] = (uint8_t)(rounded < 255.f ? (int)rounded : 255);
  }
}

static inline void area_line(const Resizer *r, const uint8_t *row, int reach) {
  const float *weight = r->weights;
  const int *from = r->from;
  float *to = r->line;
  for (int x = 0, width = r->out_width; x < width; x++, weight += reach, to += 3) {
    float4 value = pixel_at(row, from[x]) * weight[0];
    for (int i = 1; i < reach; i++) value += pixel_at(row, from[x] + i) * weight[i];
    memcpy(to, &value, sizeof value);
  }
}

static void area_row(Resizer *r, const uint8_t *row) {
  if (r->next_y >= r->taps_y || r->y[r->next_y].from != r->row) return;
  switch (r->reach) { /* loops of known length for factors of up to 2 and 3 */
    case 3: area_line(r, row, 3); break;
    case 4: area_line(r, row, 4); break;
    default: area_line(r, row, r->reach);
  }
  const float *restrict line = r->line;
  float *restrict sum = r->sum;
  for (; r->next_y < r->taps_y && r->y[r->next_y].from == r->row; r->next_y++) {
    float weight = r->y[r->next_y].weight;
    int first = !r->next_y || r->y[r->next_y].to != r->y[r->next_y - 1].to, count = 3 * r->out_width;
    if (r->next_y && first) area_store(r);
    if (first)
      for (int i = 0; i < count; i++) sum[i] = weight * line[i];
    else
      for (int i = 0; i < count; i++) sum[i] += weight * line[i];
  }
  if (r->next_y == r->taps_y) area_store(r);
}

static void linear_mix(int count, const int16_t *above, const int16_t *below, int16_t first, int16_t second,
                       uint8_t *restrict out) {
  for (int i = 0; i < count; i++) {
    int16_t upper = (int16_t)((first * above[i]) >> 16), lower = (int16_t)((second * below[i]) >> 16);
    out[i] = (uint8_t)((int16_t)(upper + lower + 2) >> 2);
  }
}

static void linear_row(Resizer *r, const uint8_t *row) {
  if (r->done >= r->out_height || r->y[r->done].from > r->row) return;
  int16_t *to = r->lines[r->row & 1];
  const float *weight = r->weights;
  const int *from = r->from;
  for (int x = 0, width = r->out_width; x < width; x++, weight += 2, to += 3) { /* exact in float for such integers */
    float4 value = pixel_at(row, from[x]) * weight[0] + pixel_at(row, from[x] + 1) * weight[1];
    short4 shifted = __builtin_convertvector(__builtin_convertvector(value, int4) >> 4, short4);
    memcpy(to, &shifted, sizeof shifted);
  }
  while (r->done < r->out_height) {
    int from = r->y[r->done].from, next = from + 1 < r->height ? from + 1 : r->height - 1;
    if (next > r->row) break;
    const float *weight = r->factors + 2 * r->done;
    linear_mix(3 * r->out_width, r->lines[from & 1], r->lines[next & 1], (int16_t)weight[0], (int16_t)weight[1], out_row(r));
  }
}

/* The box's next row, with readable bytes (`padding`) behind it. */
static void push(Resizer *r, const uint8_t *row) {
  switch (r->mode) {
    case COPY: copy_row(r, row); break;
    case MEAN: mean_row(r, row); break;
    case AREA: area_row(r, row); break;
    case LINEAR: linear_row(r, row); break;
  }
  r->row++;
}

/* --------------------------------------------------------------------------------------------------------- the box

   A box may reach outside the image, where it is black. `Window` is the part inside. */

typedef struct {
  int top, left, height, width;
} Box;

typedef struct {
  Box box, inside; /* `inside` may be empty */
  uint8_t *row;    /* of the box, with padding */
} Window;

static int window_init(Window *w, const int32_t *box, int height, int width, size_t padding) {
  w->box = (Box){box[0], box[1], box[2], box[3]};
  int64_t bottom = (int64_t)box[0] + box[2], right = (int64_t)box[1] + box[3];
  int top = box[0] > 0 ? box[0] : 0, left = box[1] > 0 ? box[1] : 0;
  int rows = (int)((bottom < height ? bottom : height) - top), columns = (int)((right < width ? right : width) - left);
  int some = rows > 0 && columns > 0;
  w->inside = (Box){top, left, some ? rows : 0, some ? columns : 0};
  w->row = calloc(1, 3 * (size_t)box[3] + padding);
  return w->row ? FINE : NO_MEMORY;
}

static void push_black(const Window *w, Resizer *r, int64_t until) {
  if (r->row < until) memset(w->row, 0, 3 * (size_t)w->box.width);
  while (r->row < until) push(r, w->row);
}

/* A row of the image, of which `pixels` is the one at inside.left. */
static void push_inside(const Window *w, Resizer *r, const uint8_t *pixels) {
  memcpy(w->row + 3 * (size_t)(w->inside.left - w->box.left), pixels, 3 * (size_t)w->inside.width);
  push(r, w->row);
}

/* ------------------------------------------------------------------------------------------------------------ JPEG */

typedef struct {
  struct jpeg_error_mgr base;
  jmp_buf escape;
} Errors;

static void on_error(j_common_ptr info) { longjmp(((Errors *)info->err)->escape, 1); }
static void on_message(j_common_ptr info, int level) {
  if (level < 0) info->err->num_warnings++;
}
static void no_output(j_common_ptr info) { (void)info; }

/* What lives across longjmp is in here, so that nothing is lost in registers. */
typedef struct {
  struct jpeg_decompress_struct info;
  Errors errors;
  uint8_t *scanline;
} Jpeg;

static int jpeg_rows(Jpeg *jpeg, const uint8_t *data, size_t size, int height, int width, int whole,
                     const Window *w, Resizer *r) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  info->err = jpeg_std_error(&jpeg->errors.base);
  jpeg->errors.base.error_exit = on_error;
  jpeg->errors.base.emit_message = on_message;
  jpeg->errors.base.output_message = no_output;
  if (setjmp(jpeg->errors.escape)) return DAMAGED;
  jpeg_create_decompress(info);
  jpeg_mem_src(info, data, size);
  jpeg_read_header(info, TRUE);
  if (info->image_height != (JDIMENSION)height || info->image_width != (JDIMENSION)width) return OTHER_SIZE;
  info->out_color_space = JCS_RGB;
  info->dct_method = JDCT_IFAST; /* as FFCV's TJFLAG_FASTDCT */
  jpeg_start_decompress(info);
  jpeg->scanline = malloc(3 * (size_t)info->output_width + 64);
  if (!jpeg->scanline) return NO_MEMORY;

  if (w->inside.height) {
    /* Upsampled chroma at the edge of what is decoded lacks its neighbours: two more columns on each side. */
    JDIMENSION begin = w->inside.left > 2 ? w->inside.left - 2 : 0, end = w->inside.left + w->inside.width + 2;
    if (end > info->output_width) end = info->output_width;
    JDIMENSION columns = end - begin;
    jpeg_crop_scanline(info, &begin, &columns);
    const uint8_t *pixels = jpeg->scanline + 3 * (size_t)(w->inside.left - begin);
    JDIMENSION top = w->inside.top;
    if (top && jpeg_skip_scanlines(info, top) != top) return DAMAGED;
    for (int row = 0; row < w->inside.height; row++) {
      if (jpeg_read_scanlines(info, &jpeg->scanline, 1) != 1) return DAMAGED;
      push_inside(w, r, pixels);
    }
  }
  if (whole) { /* the rest is looked at, for damage; if skipped to its end, it would not be */
    JDIMENSION left = info->output_height - info->output_scanline;
    if (left > 1 && jpeg_skip_scanlines(info, left - 1) != left - 1) return DAMAGED;
    if (left && jpeg_read_scanlines(info, &jpeg->scanline, 1) != 1) return DAMAGED;
    jpeg_finish_decompress(info);
  }
  return info->err->num_warnings ? DAMAGED : FINE;
}

/* Writes a box of an image to `out`, resized and, if asked for, flipped.

   data, size      the stored bytes: a JPEG, or (raw) height x width RGB pixels
   box             top, left, height, width
   whole           notice damage of a JPEG outside of the box as well
   out             [out_height, out_width, 3]

   Returns 0; 1 damaged JPEG; 2 the JPEG has another size; 3 out of memory; 4 an impossible argument. `out` is undefined
   unless it returns 0. */
int skd_crop(const uint8_t *data, size_t size, int raw, int height, int width, const int32_t *box,
             int flip, int whole, uint8_t *out, int out_height, int out_width) {
  const int most = 65535;
  if (height < 1 || width < 1 || height > most || width > most || out_height < 1 || out_width < 1 || out_height > most ||
      out_width > most || box[2] < 1 || box[3] < 1 || box[2] > most || box[3] > most ||
      abs(box[0] / 2) > most || abs(box[1] / 2) > most)
    return BAD_ARGUMENT;
  if (raw && size != (size_t)height * width * 3) return BAD_ARGUMENT;

  Window window = {0};
  Resizer resizer = {0};
  int result = resizer_init(&resizer, box[2], box[3], out_height, out_width, flip, out);
  if (!result) result = window_init(&window, box, height, width, 3 * (size_t)resizer.reach + 16);
  if (!result) {
    push_black(&window, &resizer, box[0] < 0 ? (box[0] < -box[2] ? box[2] : -box[0]) : 0);
    if (raw) {
      for (int row = 0; row < window.inside.height; row++)
        push_inside(&window, &resizer, data + 3 * ((size_t)(window.inside.top + row) * width + window.inside.left));
    } else {
      Jpeg *jpeg = calloc(1, sizeof(Jpeg));
      if (jpeg) {
        result = jpeg_rows(jpeg, data, size, height, width, whole, &window, &resizer);
        jpeg_destroy_decompress(&jpeg->info);
        free(jpeg->scanline);
        free(jpeg);
      } else {
        result = NO_MEMORY;
      }
    }
    if (!result) push_black(&window, &resizer, box[2]);
  }
  free(window.row);
  free(resizer.memory);
  return result;
}
