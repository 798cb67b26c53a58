// An adapter's two files: what they give, and that each misfit between them is refused by name.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "files.h"
#include "fuzz/adapter_input.h"

namespace ddit_test {
namespace {

TEST(AdapterFile, GivesWhatTheFilesSay) {
  TinyAdapter tiny;
  tiny.more = R"("later_versions": [1, {"may": "add"}], )";
  const ddit::AdapterFile file = tiny.load();
  EXPECT_EQ(file.version(), "0.1.0");
  EXPECT_EQ(file.family(), "flux");
  EXPECT_EQ(file.base(), tiny.base);
  EXPECT_EQ(file.training(), R"({"steps": 7})");
  ASSERT_EQ(file.scales().size(), 1u);
  const ddit::ScaleSpec& spec = file.scales()[0];
  EXPECT_EQ(spec.scale, 2);
  EXPECT_EQ(spec.rank, 1);
  EXPECT_TRUE(spec.start == ddit::Start::kNoiseMatched && spec.centred && spec.detail_residual &&
              !spec.detail_variance);
  EXPECT_EQ(spec.lora_scale, 1.0);
  EXPECT_EQ(file.lora_layers().at("m").out_features, 5);
  EXPECT_EQ(file.tensors().floats("2.deembed_bias"), std::vector<float>(4, 0.25f));
  EXPECT_EQ(file.shapes(spec).size(), tiny.tensors.size());
}

TEST(AdapterFile, ReadsEveryChoiceOfAScale) {
  TinyAdapter tiny;
  tiny.scales =
      R"([{"scale": 2, "patch_size": 1, "width": 2, "in_channels": 1, "out_channels": 1, "rank": 1,
          "start": "pi_resize", "positions": "grid", "detail_residual": false, "detail_variance": 4.1e-1,
          "lora_scale": 0.5, "refinement_hidden": 0, "refinement_knots": 3, "refinement_tokens": true}])";
  const ddit::ScaleSpec spec = tiny.load().scales()[0];
  EXPECT_TRUE(spec.start == ddit::Start::kPiResize);
  EXPECT_FALSE(spec.centred || spec.detail_residual);
  EXPECT_EQ(spec.detail_variance.value(), 0.41);
  EXPECT_EQ(spec.lora_scale, 0.5);
  EXPECT_EQ(spec.refinement_knots, 3);
  EXPECT_TRUE(spec.refinement_tokens);
}

TEST(AdapterFile, ReadsALoraThatTheFirstScaleHasNot) {
  TinyAdapter tiny;
  const std::string rest = R"(, "patch_size": 1, "width": 2, "in_channels": 1, "out_channels": 1, "rank": )";
  tiny.scales = R"([{"scale": 2)" + rest + R"(0}, {"scale": 3)" + rest + "1}]";
  tiny.tensors.resize(5);
  for (const auto& [name, shape] :
       std::vector<std::pair<std::string, std::vector<int64_t>>>{{"embed_weight", {2, 1, 3, 3}},
                                                                 {"embed_bias", {2}},
                                                                 {"size_embedding", {2}},
                                                                 {"deembed_weight", {1, 3, 3, 2}},
                                                                 {"deembed_bias", {1, 3, 3}},
                                                                 {"lora.m.a", {1, 3}},
                                                                 {"lora.m.b", {5, 1}}})
    tiny.tensors.emplace_back("3." + name, shape);
  const ddit::AdapterFile file = tiny.load();
  EXPECT_EQ(file.shapes(file.scales()[0]).count("lora.m.a"), 0u);
  EXPECT_EQ(file.shapes(file.scales()[1]).at("lora.m.b"), (std::vector<int64_t>{5, 1}));
  EXPECT_EQ(file.tensors().floats("3.lora.m.a"), std::vector<float>(3, 0.25f));
}

struct Misfit {
  const char* what;
  std::function<void(TinyAdapter&)> change;
  const char* says;
};

TEST(AdapterFile, RefusesMisfitsByName) {
  const std::vector<Misfit> cases{
      {"format", [](TinyAdapter& t) { t.format = "\"lora\""; }, "format: expected \"ddit_ext.adapter\""},
      {"version", [](TinyAdapter& t) { t.version = "2"; }, "format_version: expected 1 to 1, got 2"},
      {"version as text", [](TinyAdapter& t) { t.version = "\"1\""; }, "format_version: expected a number"},
      {"a field twice", [](TinyAdapter& t) { t.more = R"("training": {}, )"; },
       "the key \"training\" comes twice"},
      {"deep nesting", [](TinyAdapter& t) { t.more = "\"x\": " + std::string(99999, '[') + ", "; },
       "nested more than 64 deep"},
      {"scales", [](TinyAdapter& t) { t.scales = "{}"; }, "scales: expected an array"},
      {"no scales", [](TinyAdapter& t) { t.scales = "[]"; }, "scales: expected at least one scale"},
      {"an unknown field", [](TinyAdapter& t) { t.scales = R"([{"scale": 2, "sclae": 3}])"; },
       "scales[0].sclae: an unknown field"},
      {"a missing field", [](TinyAdapter& t) { t.scales = R"([{"scale": 2}])"; },
       "scales[0]: in_channels is missing"},
      {"a scale of 1", [](TinyAdapter& t) { t.scales = R"([{"scale": 1}])"; },
       "scales[0].scale: expected a number of 2 to"},
      {"a huge width", [](TinyAdapter& t) { t.scales = R"([{"width": 9000000000000000000}])"; },
       "scales[0].width: expected a number of 1 to"},
      {"a start", [](TinyAdapter& t) { t.scales = R"([{"start": "x"}])"; },
       "scales[0].start: expected \"noise_matched\", \"pi_resize\" or \"blended\""},
      {"a variance", [](TinyAdapter& t) { t.scales = R"([{"detail_variance": -1}])"; },
       "scales[0].detail_variance: expected null or"},
      {"an infinite scale", [](TinyAdapter& t) { t.scales = R"([{"lora_scale": 1e999}])"; },
       "scales[0].lora_scale: expected a number that a double can hold"},
      {"NaN", [](TinyAdapter& t) { t.scales = R"([{"lora_scale": NaN}])"; },
       "scales[0].lora_scale: expected a number"},
      {"channels",
       [](TinyAdapter& t) {
         t.scales = R"([{"scale":2,"patch_size":1,"width":2,"in_channels":1,"out_channels":2}])";
       },
       "in_channels must be at least out_channels, got 1 and 2"},
      {"layers", [](TinyAdapter& t) { t.layers = R"({"m": [3]})"; },
       "lora_layers.m: expected [in, out] features"},
      {"base", [](TinyAdapter& t) { t.base = R"({"family": "flux"})"; }, "base: config is missing"},
      {"base weights",
       [](TinyAdapter& t) { t.base = R"({"family": "", "config": {}, "weights": {"x": ["1"]}})"; },
       "base.weights.x[0]: expected a number"},
      {"length", [](TinyAdapter& t) { t.bytes = 10; }, "truncated or from another save: expected 10 bytes"},
      {"digest", [](TinyAdapter& t) { t.sha256 = "00"; }, "damaged or from another save: expected sha256 00"},
      {"a missing tensor", [](TinyAdapter& t) { t.tensors.pop_back(); }, "expected 7 tensors, got 6"},
      {"another name", [](TinyAdapter& t) { t.tensors.back().first = "2.lora.n.b"; },
       "has no tensor \"2.lora.m.b\""},
      {"another shape", [](TinyAdapter& t) { t.tensors[1].second = {1, 2}; },
       "2.embed_bias must have shape [2], got [1, 2]"},
      {"infinity", [](TinyAdapter& t) { t.value = INFINITY; }, "holds values that are not finite"},
  };
  for (const Misfit& misfit : cases) {
    TinyAdapter tiny;
    misfit.change(tiny);
    const std::string said = error_of([&] { tiny.load(); });
    EXPECT_NE(said.find(misfit.says), std::string::npos) << misfit.what << ": " << said;
    EXPECT_TRUE(said.rfind("adapter.json: ", 0) == 0 || said.rfind("file", 0) == 0) << said;
  }
}

// A million scales times a million layers would be 10^12 names.
TEST(AdapterFile, CountsBeforeItWritesOut) {
  TinyAdapter tiny;
  tiny.scales = "[";
  tiny.layers = "{";
  for (int i = 0; i < 3000; ++i) {
    const std::string comma = i ? "," : "", n = std::to_string(i + 2);
    tiny.scales += comma + R"({"scale":)" + n +
                   R"(,"patch_size":1,"width":2,"in_channels":1,"out_channels":1,"rank":1})";
    tiny.layers += comma + "\"" + n + "\":[1,1]";
  }
  tiny.scales += "]";
  tiny.layers += "}";
  EXPECT_NE(error_of([&] { tiny.load(); }).find("expected 18015000 tensors, got 7"), std::string::npos);
}

// A fuzzer begins at its seeds: these have to be adapters, or it would never come past the first check.
TEST(AdapterFile, TakesTheSeedsOfTheFuzzer) {
  for (const char* name : {"plain", "lora", "refinement"}) {
    std::ifstream file(std::filesystem::path(__FILE__).parent_path() / "fuzz" / "corpus" / "adapter" / name,
                       std::ios::binary);
    const std::string input((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    EXPECT_EQ(error_of([&] { ASSERT_TRUE(adapter_of(input)) << name; }), "") << name;
  }
}

TEST(AdapterFile, TakesTheFolderOrAFileInIt) {
  const TinyAdapter tiny;
  const std::string folder = testing::TempDir();
  std::ofstream(folder + "/adapter.json") << tiny.description();
  std::ofstream(folder + "/adapter.safetensors", std::ios::binary) << tiny.file();
  for (const char* name : {"", "/adapter.json", "/adapter.safetensors"})
    EXPECT_EQ(ddit::AdapterFile(folder + name).scales().size(), 1u);
  EXPECT_NE(error_of([&] { ddit::AdapterFile(folder + "/none"); }).find("there is no file or folder"),
            std::string::npos);
  std::ofstream(folder + "/other.json") << "{}";
  EXPECT_NE(error_of([&] { ddit::AdapterFile(folder + "/other.json"); }).find("expected an adapter's folder"),
            std::string::npos);
  for (const char* name : {"/adapter.json", "/adapter.safetensors", "/other.json"})
    std::remove((folder + name).c_str());
}

}  // namespace
}  // namespace ddit_test
