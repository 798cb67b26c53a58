// The reader of .safetensors files: what it gives, and that each bad file is refused by name.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

#include "files.h"

namespace ddit_test {
namespace {

using ddit::DType;

const std::string kTwo =
    R"({"__metadata__":{"made":"by \u00e4 \ud83d\ude00"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}  )";

TEST(Safetensors, ReadsTensorsAndMetadata) {
  const std::string data = std::string("\x80\x3f\x00\xc0", 4) + raw({0.5f, -3.0f});  // bf16 1, -2
  const ddit::Safetensors file = in_memory(file_bytes(kTwo, data));
  EXPECT_EQ(file.metadata().at("made"), "by \u00e4 \U0001F600");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.at("a").dtype, DType::kBFloat16);
  EXPECT_EQ(file.at("b").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(file.at("b").elements(), 2u);
  EXPECT_EQ(file.floats("a"), (std::vector<float>{1.0f, -2.0f}));
  EXPECT_EQ(file.floats("b"), (std::vector<float>{0.5f, -3.0f}));
  float read[2];
  file.read("b", read);
  EXPECT_EQ(read[1], -3.0f);
  EXPECT_EQ(error_of([&] { file.at("c"); }), "file: has no tensor \"c\"");
}

TEST(Safetensors, ConvertsHalfAndDouble) {
  const std::string header =
      R"({"h":{"dtype":"F16","shape":[6],"data_offsets":[0,12]},"d":{"dtype":"F64","shape":[],"data_offsets":[12,20]}})";
  const uint16_t half[] = {0x3C00, 0xC500, 0x0001, 0x8000, 0x7BFF, 0x7C00};
  const double number = 0.1;
  std::string data(reinterpret_cast<const char*>(half), sizeof half);
  data.append(reinterpret_cast<const char*>(&number), sizeof number);
  const ddit::Safetensors file = in_memory(file_bytes(header, data));
  const std::vector<float> expected{1.0f,  -5.0f,    std::ldexp(1.0f, -24),
                                    -0.0f, 65504.0f, std::numeric_limits<float>::infinity()};
  EXPECT_EQ(file.floats("h"), expected);
  EXPECT_TRUE(std::signbit(file.floats("h")[3]));
  EXPECT_FALSE(file.is_finite("h"));
  EXPECT_TRUE(file.is_finite("d"));
  EXPECT_EQ(file.floats("d"), std::vector<float>{0.1f});
}

TEST(Safetensors, ReadsLargeTensorsPieceByPiece) {
  std::vector<float> values(100'003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const std::string end = std::to_string(values.size() * 4);
  const std::string header = R"({"x":{"dtype":"F32","shape":[100003],"data_offsets":[0,)" + end + "]}}";
  EXPECT_EQ(in_memory(file_bytes(header, raw(values))).floats("x"), values);
  values.back() = std::nanf("");
  EXPECT_FALSE(in_memory(file_bytes(header, raw(values))).is_finite("x"));
}

// Digests of files of 10, 56 (whose padding takes another block) and 1,000,010 bytes, as by sha256sum.
TEST(Safetensors, Sha256) {
  const auto digest = [](const std::string& padding) {
    return in_memory(file_bytes("{}" + padding)).sha256();
  };
  EXPECT_EQ(digest(""), "411a485216e432ece6b9af94fa32154cf79a2a56d4f81266baa50063f45092bd");
  EXPECT_EQ(digest(std::string(46, ' ')), "0494b9526f4c1acc8e6062b36034bc390bf4c47defdcb2f599ae21e32bc89c07");
  EXPECT_EQ(digest(std::string(1'000'000, ' ')),
            "185e7870b834209c20cad54b7a7c8695c4de92fc6c69c8509f0ffd1cff22015a");
}

struct Bad {
  const char* what;
  std::string bytes;
  const char* says;
};

std::string entry(const std::string& fields, const std::string& data = "12345678") {
  return file_bytes("{\"x\":" + fields + "}", data);
}

std::string deep(size_t levels) {
  std::string open, close;
  for (size_t i = 0; i < levels; ++i) {
    open += "[";
    close += "]";
  }
  return open + close;
}

TEST(Safetensors, RefusesBadFilesByName) {
  const std::vector<Bad> cases{
      {"no length", "\x02\x00", "is truncated"},
      {"length beyond the file", file_bytes("{}", "", 3), "header length: expected at most 2 bytes, got 3"},
      {"length of 2^63", file_bytes("{}", "", std::numeric_limits<int64_t>::max()), "header length"},
      {"empty header", file_bytes(""), "expected '{'"},
      {"space first", file_bytes(" {}"), "expected '{'"},
      {"an array", file_bytes("[]"), "expected '{'"},
      {"text behind", file_bytes("{} x"), "expected nothing more"},
      {"bad UTF-8", file_bytes("{\"\xff\":1}"), "not UTF-8"},
      {"overlong UTF-8", file_bytes("{\"\xc0\xaf\":1}"), "not UTF-8"},
      {"surrogate as UTF-8", file_bytes("{\"\xed\xa0\x80\":1}"), "not UTF-8"},
      {"cut UTF-8", file_bytes("{\"\xf0\x9f\x98"), "not UTF-8"},
      {"half a surrogate pair", file_bytes(R"({"\ud83d":1})"), "surrogate"},
      {"control character", file_bytes("{\"a\nb\":1}"), "control character"},
      {"unknown escape", file_bytes(R"({"\x":1})"), "unknown escape"},
      {"metadata that is no text", file_bytes(R"({"__metadata__":{"a":1}})"),
       "__metadata__.a: expected a string"},
      {"metadata twice", file_bytes(R"({"__metadata__":{"a":"1","a":"2"}})"), "the key \"a\" comes twice"},
      {"a tensor twice",
       file_bytes(R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                  R"("x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
       "the key \"x\" comes twice"},
      {"nesting", entry(deep(1000)), "x: expected an object"},
      {"nesting in a field", entry("{\"shape\":" + deep(1000) + "}"), "x.shape[0]: expected a number"},
      {"an unknown field", entry(R"({"type":"F32"})"), "x.type: expected dtype, shape or data_offsets"},
      {"an unknown type", entry(R"({"dtype":"F31"})"), "x.dtype: expected a type such as"},
      {"no dtype", entry(R"({"shape":[2],"data_offsets":[0,8]})"), "x: dtype is missing"},
      {"no shape", entry(R"({"dtype":"F32","data_offsets":[0,8]})"), "x: shape is missing"},
      {"no offsets", entry(R"({"dtype":"F32","shape":[2]})"), "x: data_offsets must be two offsets"},
      {"three offsets", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"),
       "expected two offsets"},
      {"offsets that go back", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
       "x: data_offsets must lie"},
      {"offsets beyond the data", entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})"),
       "x: data_offsets must lie in the file's 8 bytes of data, got [0, 12]"},
      {"odd offsets", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,7]})"),
       "x: data_offsets must be 8 bytes apart"},
      {"a negative offset", entry(R"({"dtype":"F32","shape":[2],"data_offsets":[-1,7]})"),
       "x.data_offsets[0]: expected a number of at least 0, got -1"},
      {"a negative size", entry(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
       "x.shape[0]: expected a number of at least 0"},
      {"a broken size", entry(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
       "x.shape[0]: expected a whole number"},
      {"a leading zero", entry(R"({"dtype":"F32","shape":[02],"data_offsets":[0,8]})"), "expected ','"},
      {"65 bits", entry(R"({"dtype":"F32","shape":[36893488147419103232],"data_offsets":[0,8]})"),
       "expected a whole number of 64 bits"},
      {"a shape beyond 64 bits",
       entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})"),
       "x: the shape has more elements"},
      {"the same with a zero",
       entry(R"({"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", ""),
       "x: the shape has more elements"},
      {"65 dimensions",
       entry(
           "{\"dtype\":\"U8\",\"shape\":[1" +
               [] {
                 std::string ones;
                 for (int i = 0; i < 64; ++i) ones += ",1";
                 return ones;
               }() +
               "],\"data_offsets\":[0,1]}",
           "1"),
       "expected at most 64 dimensions"},
      {"overlap",
       file_bytes(R"({"x":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
                  R"("y":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                  "12345678"),
       "y: data_offsets must follow the tensor before it, at 5, got 4: they overlap"},
      {"a hole",
       file_bytes(R"({"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                  R"("y":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                  "12345678"),
       "y: data_offsets must follow the tensor before it, at 3, got 4: there is a hole"},
      {"data that nothing names", entry(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})"),
       "has 8 bytes of data, its tensors fill 4"},
  };
  for (const Bad& bad : cases) {
    const std::string said = error_of([&] { in_memory(bad.bytes); });
    EXPECT_EQ(said.substr(0, 5), "file:") << bad.what << ": " << said;
    EXPECT_NE(said.find(bad.says), std::string::npos) << bad.what << ": " << said;
  }
}

TEST(Safetensors, RefusesWholeNumbersAsFloats) {
  const ddit::Safetensors file = in_memory(entry(R"({"dtype":"I64","shape":[1],"data_offsets":[0,8]})"));
  EXPECT_EQ(error_of([&] { file.floats("x"); }), "file: x: expected dtype F32, F16, BF16 or F64, got I64");
}

TEST(Safetensors, NamesWhatCannotBeOpened) {
  EXPECT_EQ(error_of([] { ddit::Safetensors("/nowhere/x"); }),
            "/nowhere/x: cannot be opened: No such file or directory");
  EXPECT_EQ(error_of([] { ddit::Safetensors("/"); }), "/: expected a regular file");
  const std::string pipe = testing::TempDir() + "/ddit_pipe";
  std::remove(pipe.c_str());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { ddit::Safetensors{pipe}; }),
            pipe + ": expected a regular file");  // and doesn't wait
  std::remove(pipe.c_str());
}

TEST(Safetensors, SaysSoWhereAFileShrinksWhileItIsOpen) {
  const std::string path = testing::TempDir() + "/ddit_shrinks.safetensors";
  const std::string bytes = entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})");
  std::ofstream(path, std::ios::binary) << bytes;
  const ddit::Safetensors file(path);
  EXPECT_EQ(file.floats("x").size(), 2u);
  ASSERT_EQ(truncate(path.c_str(), static_cast<off_t>(bytes.size() - 6)), 0);
  EXPECT_NE(error_of([&] { file.floats("x"); }).find("was truncated while it was read"), std::string::npos);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace ddit_test
