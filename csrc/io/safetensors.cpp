#include "ddit_ext/safetensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <utility>

#include "io/file_source.h"
#include "io/floats.h"
#include "io/json_reader.h"
#include "io/sha256.h"

namespace ddit {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;  // bytes; the limit of the format's own library
constexpr size_t kMostDimensions = 64;
constexpr uint64_t kPiece = 1 << 16;  // bytes that are read at once where a whole tensor isn't wanted

struct DTypeFacts {
  DType dtype;
  const char* name;
  int64_t bytes;
};

constexpr DTypeFacts kDTypes[] = {
    {DType::kBool, "BOOL", 1},          {DType::kUInt8, "U8", 1},           {DType::kInt8, "I8", 1},
    {DType::kFloat8E4M3, "F8_E4M3", 1}, {DType::kFloat8E5M2, "F8_E5M2", 1}, {DType::kInt16, "I16", 2},
    {DType::kUInt16, "U16", 2},         {DType::kFloat16, "F16", 2},        {DType::kBFloat16, "BF16", 2},
    {DType::kInt32, "I32", 4},          {DType::kUInt32, "U32", 4},         {DType::kFloat32, "F32", 4},
    {DType::kInt64, "I64", 8},          {DType::kUInt64, "U64", 8},         {DType::kFloat64, "F64", 8}};

const DTypeFacts& facts(DType dtype) { return kDTypes[static_cast<int>(dtype)]; }

DType read_dtype(io::JsonReader& json) {
  const std::string name = json.string();
  for (const DTypeFacts& known : kDTypes)
    if (name == known.name) return known.dtype;
  json.fail("expected a type such as \"F32\" or \"BF16\", got " + io::JsonReader::quoted(name));
}

uint64_t read_size(io::JsonReader& json) {
  const int64_t value = json.integer();
  if (value < 0) json.fail("expected a number of at least 0, got " + std::to_string(value));
  return static_cast<uint64_t>(value);
}

// shape -> bytes; an overflow is an error of the file, in an empty tensor as well: its strides are products
// too.
uint64_t bytes_of(io::JsonReader& json, const TensorInfo& info) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  int64_t bytes = bytes_of_element(info.dtype);
  bool empty = false;
  for (int64_t size : info.shape) {
    empty = empty || size == 0;
    if (size > 1 && bytes > kMost / size) json.fail("the shape has more elements than 64 bits can count");
    bytes *= std::max<int64_t>(size, 1);
  }
  return empty ? 0 : static_cast<uint64_t>(bytes);
}

// {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}; offsets count from the end of the header.
TensorInfo read_entry(io::JsonReader& json, uint64_t data_bytes) {
  TensorInfo info;
  bool has_dtype = false, has_shape = false;
  std::vector<uint64_t> offsets;
  json.object([&](const std::string& key) {
    if (key == "dtype") {
      info.dtype = read_dtype(json);
      has_dtype = true;
    } else if (key == "shape") {
      json.array([&](size_t index) {
        if (index >= kMostDimensions) json.fail("expected at most 64 dimensions");
        info.shape.push_back(static_cast<int64_t>(read_size(json)));
      });
      has_shape = true;
    } else if (key == "data_offsets") {
      json.array([&](size_t index) {
        if (index >= 2) json.fail("expected two offsets");
        offsets.push_back(read_size(json));
      });
    } else {
      json.fail("expected dtype, shape or data_offsets");
    }
  });
  if (!has_dtype) json.fail("dtype is missing");
  if (!has_shape) json.fail("shape is missing");
  if (offsets.size() != 2)
    json.fail("data_offsets must be two offsets, got " + std::to_string(offsets.size()));
  const std::string range = "[" + std::to_string(offsets[0]) + ", " + std::to_string(offsets[1]) + "]";
  if (offsets[0] > offsets[1] || offsets[1] > data_bytes)
    json.fail("data_offsets must lie in the file's " + std::to_string(data_bytes) + " bytes of data, got " +
              range);
  info.offset = offsets[0];
  info.bytes = bytes_of(json, info);
  if (info.bytes != offsets[1] - offsets[0])
    json.fail("data_offsets must be " + std::to_string(info.bytes) +
              " bytes apart for this dtype and shape, got " + range);
  return info;
}

// Every byte of the data belongs to exactly one tensor.
void check_layout(const std::string& name, const std::map<std::string, TensorInfo>& tensors,
                  uint64_t data_bytes) {
  using Entry = std::pair<const std::string, TensorInfo>;
  std::vector<const Entry*> order;
  order.reserve(tensors.size());
  for (const Entry& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    const TensorInfo &x = a->second, &y = b->second;
    return x.offset != y.offset ? x.offset < y.offset : x.bytes < y.bytes;
  });
  uint64_t end = 0;
  for (const Entry* entry : order) {
    if (entry->second.offset != end)
      throw FileError(name + ": " + entry->first + ": data_offsets must follow the tensor before it, at " +
                      std::to_string(end) + ", got " + std::to_string(entry->second.offset) +
                      (entry->second.offset < end ? ": they overlap" : ": there is a hole"));
    end += entry->second.bytes;
  }
  if (end != data_bytes)
    throw FileError(name + ": has " + std::to_string(data_bytes) + " bytes of data, its tensors fill " +
                    std::to_string(end));
}

float element(const unsigned char* at, DType dtype) {
  if (dtype == DType::kFloat64) {
    double value;
    std::memcpy(&value, at, sizeof value);
    return static_cast<float>(value);
  }
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return dtype == DType::kBFloat16 ? io::from_bfloat16(bits) : io::from_float16(bits);
}

// Calls take(values, count) on a tensor's values, piece by piece; stops where it returns false.
void each_piece(const io::FileSource& source, const std::string& tensor, const TensorInfo& info,
                const std::function<bool(const float*, size_t)>& take) {
  if (info.dtype != DType::kFloat64 && info.dtype != DType::kFloat32 && info.dtype != DType::kBFloat16 &&
      info.dtype != DType::kFloat16)
    throw FileError(source.name() + ": " + tensor + ": expected dtype F32, F16, BF16 or F64, got " +
                    name_of(info.dtype));
  const auto size = static_cast<size_t>(bytes_of_element(info.dtype));
  std::vector<unsigned char> bytes(static_cast<size_t>(std::min(info.bytes, kPiece)));
  std::vector<float> values(bytes.size() / size);
  for (uint64_t done = 0; done < info.bytes;) {
    const uint64_t piece = std::min<uint64_t>(info.bytes - done, bytes.size());
    source.read(info.offset + done, bytes.data(), piece);
    const size_t count = static_cast<size_t>(piece) / size;
    for (size_t i = 0; i < count; ++i) values[i] = element(bytes.data() + i * size, info.dtype);
    if (!take(values.data(), count)) return;
    done += piece;
  }
}

}  // namespace

const char* name_of(DType dtype) { return facts(dtype).name; }
int64_t bytes_of_element(DType dtype) { return facts(dtype).bytes; }

class Safetensors::Source : public io::FileSource {
 public:
  using io::FileSource::FileSource;
};

Safetensors::Safetensors(const std::string& path) : Safetensors(std::make_shared<const Source>(path)) {}

Safetensors Safetensors::from_bytes(std::string bytes, std::string name) {
  return Safetensors(std::make_shared<const Source>(std::move(bytes), std::move(name)));
}

Safetensors::Safetensors(std::shared_ptr<const Source> source) : source_(std::move(source)) {
  const std::string& file = source_->name();
  unsigned char length[8];
  source_->read(0, length, sizeof length);
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | length[i];
  const uint64_t rest = source_->size() - sizeof length;
  if (header > kLongestHeader || header > rest)
    throw FileError(file + ": header length: expected at most " +
                    std::to_string(std::min(rest, kLongestHeader)) + " bytes, got " + std::to_string(header));
  std::string text(static_cast<size_t>(header), '\0');
  source_->read(sizeof length, text.data(), header);
  if (text.empty() || text[0] != '{') throw FileError(file + ": header: expected '{' at its begin");

  const uint64_t data_begin = sizeof length + header, data_bytes = rest - header;
  io::JsonReader json(text, file);
  json.object([&](const std::string& key) {
    if (key == "__metadata__") {
      json.object([&](const std::string& name) { metadata_[name] = json.string(); });
    } else {
      tensors_[key] = read_entry(json, data_bytes);
    }
  });
  json.end();
  check_layout(file, tensors_, data_bytes);
  for (auto& [name, info] : tensors_) info.offset += data_begin;
}

const std::string& Safetensors::name() const { return source_->name(); }

const TensorInfo& Safetensors::at(const std::string& tensor) const {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) throw FileError(name() + ": has no tensor " + io::JsonReader::quoted(tensor));
  return found->second;
}

void Safetensors::read(const std::string& tensor, void* out) const {
  const TensorInfo& info = at(tensor);
  source_->read(info.offset, out, info.bytes);
}

std::vector<float> Safetensors::floats(const std::string& tensor) const {
  const TensorInfo& info = at(tensor);
  std::vector<float> all;
  all.reserve(static_cast<size_t>(info.elements()));
  each_piece(*source_, tensor, info, [&](const float* values, size_t count) {
    all.insert(all.end(), values, values + count);
    return true;
  });
  return all;
}

bool Safetensors::is_finite(const std::string& tensor) const {
  bool finite = true;
  each_piece(*source_, tensor, at(tensor), [&](const float* values, size_t count) {
    finite = std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
    return finite;
  });
  return finite;
}

uint64_t Safetensors::file_bytes() const { return source_->size(); }

std::string Safetensors::sha256() const {
  io::Sha256 digest;
  std::vector<unsigned char> piece(static_cast<size_t>(std::min(source_->size(), kPiece)));
  for (uint64_t done = 0; done < source_->size(); done += piece.size()) {
    piece.resize(static_cast<size_t>(std::min<uint64_t>(source_->size() - done, piece.size())));
    source_->read(done, piece.data(), piece.size());
    digest.add(piece.data(), piece.size());
  }
  return digest.hex();
}

}  // namespace ddit
