#include "io/adapter_description.h"

#include <functional>
#include <set>

#include "io/json_reader.h"

namespace ddit::io {
namespace {

constexpr const char* kFormat = "ddit_ext.adapter";
constexpr int64_t kVersion = 1;
constexpr int64_t kLargest = int64_t{1}
                             << 30;  // of any size in the file; keeps products of two of them exact

// The fields of one object: each has a reader, and is needed or not.
class Fields {
 public:
  explicit Fields(JsonReader& json) : json_(json) {}

  void add(const char* name, bool needed, std::function<void()> read) {
    readers_[name] = std::move(read);
    if (needed) missing_.insert(name);
  }
  void whole(const char* name, bool needed, int64_t least, int64_t& value) {
    add(name, needed, [this, least, &value] {
      value = json_.integer();
      if (value < least || value > kLargest)
        json_.fail("expected a number of " + std::to_string(least) + " to " + std::to_string(kLargest) +
                   ", got " + std::to_string(value));
    });
  }
  void choice(const char* name, const char* yes, const char* no, bool& value) {
    add(name, false, [this, yes, no, &value] {
      const std::string word = json_.string();
      if (word != yes && word != no)
        json_.fail("expected \"" + std::string(yes) + "\" or \"" + no + "\", got " +
                   JsonReader::quoted(word));
      value = word == yes;
    });
  }
  // unknown: whether fields that nobody asked for are passed over.
  void read(bool unknown = false) {
    json_.object([&](const std::string& key) {
      const auto found = readers_.find(key);
      if (found != readers_.end()) {
        missing_.erase(key);
        found->second();
      } else if (unknown) {
        json_.skip();
      } else {
        json_.fail("an unknown field");
      }
    });
    if (!missing_.empty()) json_.fail(*missing_.begin() + " is missing");
  }

 private:
  JsonReader& json_;
  std::map<std::string, std::function<void()>> readers_;
  std::set<std::string> missing_;
};

ScaleSpec read_scale(JsonReader& json) {
  ScaleSpec spec;
  Fields fields(json);
  fields.whole("scale", true, 2, spec.scale);
  fields.whole("patch_size", true, 1, spec.patch_size);
  fields.whole("width", true, 1, spec.width);
  fields.whole("in_channels", true, 1, spec.in_channels);
  fields.whole("out_channels", true, 1, spec.out_channels);
  fields.add("start", false, [&] {
    const std::string word = json.string();
    if (word == "noise_matched")
      spec.start = Start::kNoiseMatched;
    else if (word == "pi_resize")
      spec.start = Start::kPiResize;
    else if (word == "blended")
      spec.start = Start::kBlended;
    else
      json.fail("expected \"noise_matched\", \"pi_resize\" or \"blended\", got " + JsonReader::quoted(word));
  });
  fields.choice("positions", "centre", "grid", spec.centred);
  fields.add("detail_residual", false, [&] { spec.detail_residual = json.boolean(); });
  fields.add("detail_variance", false, [&] {
    if (json.null()) return;
    spec.detail_variance = json.number();
    if (*spec.detail_variance < 0) json.fail("expected null or a number that is not negative");
  });
  fields.whole("rank", false, 0, spec.rank);
  fields.add("lora_scale", false, [&] { spec.lora_scale = json.number(); });
  fields.whole("refinement_hidden", false, 0, spec.refinement_hidden);
  fields.whole("refinement_knots", false, 2, spec.refinement_knots);
  fields.add("refinement_tokens", false, [&] { spec.refinement_tokens = json.boolean(); });
  fields.read();
  if (spec.in_channels < spec.out_channels)
    json.fail("in_channels must be at least out_channels, got " + std::to_string(spec.in_channels) + " and " +
              std::to_string(spec.out_channels));
  return spec;
}

LoraLayer read_layer(JsonReader& json) {
  std::vector<int64_t> sizes;
  json.array([&](size_t index) {
    if (index >= 2) json.fail("expected [in, out] features");
    sizes.push_back(json.integer());
    if (sizes.back() < 1 || sizes.back() > kLargest)
      json.fail("expected a number of 1 to " + std::to_string(kLargest) + ", got " +
                std::to_string(sizes.back()));
  });
  if (sizes.size() != 2) json.fail("expected [in, out] features");
  return {sizes[0], sizes[1]};
}

// The fingerprint as JSON, and the family in it.
std::string read_base(JsonReader& json, std::string& family) {
  Fields fields(json);
  fields.add("family", true, [&] { family = json.string(); });
  fields.add("config", true, [&] { json.object([&](const std::string&) { json.skip(); }); });
  fields.add("weights", true,
             [&] { json.object([&](const std::string&) { json.array([&](size_t) { json.number(); }); }); });
  return std::string(json.between([&] { fields.read(true); }));
}

}  // namespace

AdapterDescription read_description(const std::string& text, const std::string& source) {
  // Another format, or a newer version, may have any other fields: those two are looked at first.
  std::string format = "nothing";
  int64_t version = 0;
  std::string version_text = "nothing";
  {
    JsonReader json(text, source);
    json.object([&](const std::string& key) {
      const std::string_view value = json.skip();
      if (key == "format") format = std::string(value);
      if (key == "format_version") version_text = std::string(value);
    });
    json.end();
    if (format != '"' + std::string(kFormat) + '"')
      throw FileError(source + ": format: expected \"" + kFormat + "\", got " + JsonReader::quoted(format));
    JsonReader number(version_text, source + ": format_version");
    version = version_text == "nothing" ? 0 : number.integer();
    if (version < 1 || version > kVersion)
      throw FileError(source + ": format_version: expected 1 to " + std::to_string(kVersion) + ", got " +
                      version_text);
  }

  AdapterDescription found;
  JsonReader json(text, source);
  Fields fields(json);
  fields.add("format", true, [&] { json.skip(); });
  fields.add("format_version", true, [&] { json.skip(); });
  fields.add("ddit_ext", true, [&] { found.version = json.string(); });
  fields.add("base", true, [&] { found.base = read_base(json, found.family); });
  fields.add("scales", true, [&] {
    std::set<int64_t> seen;
    json.array([&](size_t) {
      found.scales.push_back(read_scale(json));
      if (!seen.insert(found.scales.back().scale).second)
        json.fail("the scale " + std::to_string(found.scales.back().scale) + " comes twice");
    });
    if (found.scales.empty()) json.fail("expected at least one scale above 1");
  });
  fields.add("lora_layers", true, [&] {
    json.object([&](const std::string& name) { found.lora_layers[name] = read_layer(json); });
  });
  fields.add("training", true, [&] {
    found.training =
        std::string(json.between([&] { json.object([&](const std::string&) { json.skip(); }); }));
  });
  fields.add("tensors", true, [&] {
    Fields file(json);
    file.add("bytes", true, [&] {
      found.file_bytes = json.integer();
      if (found.file_bytes < 0) json.fail("expected a number of at least 0");
    });
    file.add("sha256", true, [&] { found.sha256 = json.string(); });
    file.read(true);
  });
  fields.read(true);
  json.end();
  return found;
}

}  // namespace ddit::io
