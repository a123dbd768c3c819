// The kernels' arithmetic as plain functions, for test_kernels.py.
#include "attention.h"
#include "tiles.h"

#include <algorithm>
#include <vector>

using namespace edgereason;

template <bits B>
static void run_linear(int64_t rows, int64_t outputs, int blocks, const uint8_t * source, const float * x, float * y, int64_t tile_rows) {
    std::vector<uint8_t>  values(outputs / LANES * blocks * block_bytes<B>);
    std::vector<uint16_t> scales(outputs * blocks);
    repack<B>(source, outputs, blocks, values.data(), scales.data());
    for (int64_t first = 0; first < rows; first += tile_rows) {
        const int n = (int) std::min(tile_rows, rows - first);
        std::vector<activation> tile(n * blocks);
        float * out[MAX_ROWS];
        for (int r = 0; r < n; ++r) {
            out[r] = y + (first + r) * outputs;
            for (int b = 0; b < blocks; ++b) quantize<B>(x + ((first + r) * blocks + b) * BLOCK, tile[b * n + r]);
        }
        multiply<B>(n, { values.data(), scales.data(), blocks }, tile.data(), out, 0, outputs / LANES);
    }
}

extern "C" {

const char * path() { return EDGEREASON_PATH; }

void linear(int width, int64_t rows, int64_t outputs, int blocks, const uint8_t * source, const float * x, float * y, int64_t tile_rows) {
    if (width == 4) run_linear<bits::four>(rows, outputs, blocks, source, x, y, tile_rows);
    else run_linear<bits::eight>(rows, outputs, blocks, source, x, y, tile_rows);
}

// `values` and `scales` of one row, as the products take them.
void quantize_row(int blocks, const float * x, int8_t * values, float * scales) {
    for (int b = 0; b < blocks; ++b) {
        activation to;
        quantize<bits::four>(x + b * BLOCK, to);
        memcpy(values + b * BLOCK, to.values, BLOCK);
        scales[b] = to.scale;
    }
}

// One row: queries and out are [heads][dim], keys and values [cells][dim], the mask [cells].
void attention(int dim, int heads, int64_t n_cells, const float * queries, const uint16_t * keys, const uint16_t * values, const uint16_t * mask, float scale, float * out) {
    std::vector<char> room(cells::bytes(n_cells));
    const float * q[MAX_HEADS];
    float * to[MAX_HEADS];
    for (int h = 0; h < heads; ++h) {
        q[h]  = queries + h * dim;
        to[h] = out + h * dim;
    }
    const halves_at k{ (const char *) keys, size_t(dim) * 2 }, v{ (const char *) values, size_t(dim) * 2 };
    const auto run = dim == 64 ? attend<64> : dim == 96 ? attend<96> : dim == 128 ? attend<128> : attend<256>;
    run(heads, q, k, v, cells(room.data(), mask, n_cells), scale, to);
}
}
