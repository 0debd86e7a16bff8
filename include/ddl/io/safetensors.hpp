// SPDX-License-Identifier: MIT
/// @file  safetensors: named tensors in one file, as PyTorch and Hugging Face exchange them.
/// @source github.com/huggingface/safetensors: README.md (the format), safetensors/src/tensor.rs
/// (validation).
///
///     8 bytes     N, little-endian
///     N bytes     JSON: {"__metadata__": {string: string},
///                        name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
///     the rest    the data: row-major, little-endian, aligned or not; offsets count from here
///
/// Where this reader is stricter than the reference, whose behaviour it is otherwise: names, metadata keys
/// and fields that stand twice, an entry that is no object, and more than 64 dimensions are errors.
///
/// Files that this library writes have checksums in their metadata, which other readers ignore:
/// "ddl.xxh64:NAME" of the bytes of the tensor NAME, and "ddl.xxh64" of the header, each XXH64 in 16
/// hexadecimal digits. Where a file has any, it must have all of them, and they must be right; files without
/// are read as they are.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ddl/core/batch.hpp"
#include "ddl/core/bytes.hpp"
#include "ddl/io/file.hpp"
#include "ddl/io/json.hpp"
#include "ddl/io/messages.hpp"
#include "ddl/io/tensor_types.hpp"

namespace ddl {

/// What a file says of itself, by key.
using Metadata = std::map<std::string, std::string>;

/// One tensor of a file.
struct TensorInfo {
  std::string dtype;                 ///< as the file has it: it may be one that this library does not know
  TensorShape shape;                 ///< empty for a scalar
  std::uint64_t begin = 0, end = 0;  ///< its bytes within the data
};

/// Whether what the format or the caller does not provide for is an error.
enum class Strict { no, yes };

namespace detail {

using Tensors = std::map<std::string, TensorInfo, std::less<>>;

inline constexpr std::uint64_t max_header_bytes = 100'000'000;  ///< the reference's
/// The shape under which a matrix is stored, [rows, cols], or [size] if it is a vector by meaning.
template <class Derived>
TensorShape shape_of(const Eigen::DenseBase<Derived>& x, bool is_vector) {
  const auto size = [](Index n) { return static_cast<std::uint64_t>(n); };
  return is_vector ? TensorShape{size(x.size())} : TensorShape{size(x.rows()), size(x.cols())};
}

[[noreturn]] inline void fail_tensor(const std::string& file, std::string_view name,
                                     const std::string& problem) {
  throw FileError(file, "tensor " + in_quotes(name) + ": " + problem);
}

/// Takes the events of nlohmann_json's parser and stores what satisfies every rule about a single tensor. Its
/// functions return true or throw FileError.
class HeaderReader {
 public:
  HeaderReader(const std::string& file, std::string_view header, std::uint64_t data_bytes, Strict strict,
               Tensors& tensors, Metadata& metadata)
      : file_(file),
        header_(header),
        data_bytes_(data_bytes),
        strict_(strict),
        tensors_(tensors),
        metadata_(metadata) {}

  bool null() {
    if (place_ == Place::header && in_metadata_) return true;  // "__metadata__": null, as in the reference
    return unexpected("null");
  }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(std::int64_t) { return unexpected("a negative number"); }
  bool number_float(double, const std::string&) {
    return unexpected("a fraction or a number above 2^64 - 1");
  }
  bool number_unsigned(std::uint64_t number) {
    if (place_ != Place::list) return unexpected("a number");
    TensorShape& list = field_ == "shape" ? *shape_ : *offsets_;
    if (list.size() == max_rank) fail(field_ + " has more than 64 entries");
    list.push_back(number);
    return true;
  }
  bool binary(std::vector<std::uint8_t>&) { return unexpected("binary"); }  // not in JSON
  bool string(std::string& text) {
    if (place_ == Place::metadata) {
      if (!metadata_.emplace(key_, std::move(text)).second) fail("key " + in_quotes(key_) + " stands twice");
    } else if (place_ == Place::tensor && field_ == "dtype") {
      dtype_ = std::move(text);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool key(std::string& text) {
    if (place_ == Place::header) {
      name_ = std::move(text);
      in_metadata_ = name_ == "__metadata__";
      if (in_metadata_ ? std::exchange(has_metadata_, true) : tensors_.contains(name_)) fail("stands twice");
    } else if (place_ == Place::metadata) {
      key_ = std::move(text);
    } else if (place_ == Place::tensor) {
      field_ = std::move(text);
      if (field_ == "dtype"   ? dtype_.has_value()
          : field_ == "shape" ? shape_.has_value()
                              : field_ == "data_offsets" && offsets_)
        fail("has two fields " + field_);
      if (is_other_field() && strict_ == Strict::yes) fail("has the unknown field " + in_quotes(field_));
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::file) {
      enter(Place::header);
    } else if (place_ == Place::header) {
      enter(in_metadata_ ? Place::metadata : Place::tensor);
      dtype_.reset();
      shape_.reset();
      offsets_.reset();
    } else {
      unexpected("an object");
      enter(Place::ignored);
    }
    return true;
  }
  bool start_array(std::size_t) {
    if (place_ == Place::tensor && (field_ == "shape" || field_ == "data_offsets")) {
      (field_ == "shape" ? shape_ : offsets_).emplace();
      enter(Place::list);
    } else {
      unexpected("a list");
      enter(Place::ignored);
    }
    return true;
  }
  bool end_object() {
    if (place_ == Place::tensor) store_tensor();
    return leave();
  }
  bool end_array() { return leave(); }

  bool parse_error(std::size_t characters, const std::string&, const nlohmann::json::exception&) {
    const bool in_tensor = place_ == Place::tensor || place_ == Place::list || place_ == Place::ignored;
    throw FileError(file_, "the header" + (in_tensor ? ", in tensor " + in_quotes(name_) + "," : "") + " " +
                               json_problem(header_, characters));
  }

 private:
  enum class Place { file, header, metadata, tensor, list, ignored };

  bool is_other_field() const { return field_ != "dtype" && field_ != "shape" && field_ != "data_offsets"; }
  void enter(Place place) {
    if (places_.size() == max_json_depth)
      fail("is nested deeper than " + std::to_string(max_json_depth) + " levels");
    places_.push_back(std::exchange(place_, place));
  }
  bool leave() {
    place_ = places_.back();
    places_.pop_back();
    return true;
  }

  /// A value of this kind, which is in its place only in a field that is ignored.
  bool unexpected(const std::string& kind) const {
    switch (place_) {
      case Place::ignored:
        return true;
      case Place::file:
        throw FileError(file_, "the header is " + kind + ", expected an object");
      case Place::header:
        fail("is " + kind + ", expected an object");
      case Place::metadata:
        fail("key " + in_quotes(key_) + " is " + kind + ", expected a string");
      case Place::tensor:
        if (is_other_field()) return true;
        fail(field_ + " is " + kind + ", expected " +
             (field_ == "dtype" ? "a string" : "a list of unsigned integers"));
      case Place::list:
        fail(field_ + " holds " + kind + ", expected unsigned integers");
    }
    return true;
  }

  void store_tensor() {
    if (!dtype_) fail("has no dtype");
    if (!shape_) fail("has no shape");
    if (!offsets_) fail("has no data_offsets");
    if (offsets_->size() != 2)
      fail("data_offsets has " + std::to_string(offsets_->size()) + " entries, expected 2");
    TensorInfo info = {*std::move(dtype_), *std::move(shape_), offsets_->front(), offsets_->back()};
    if (info.begin > info.end || info.end > data_bytes_)
      fail("data_offsets is " + tensor_shape_text(*offsets_) +
           ", expected begin <= end <= " + std::to_string(data_bytes_) + ", where the file ends");
    const Dtype* const dtype = find_dtype(info.dtype);
    if (!dtype && strict_ == Strict::yes) fail("has the unknown dtype " + in_quotes(info.dtype));
    const std::string problem = dtype ? size_problem(*dtype, info.shape, info.end - info.begin) : "";
    if (!problem.empty()) fail(problem);
    tensors_.emplace(std::move(name_), std::move(info));
  }

  [[noreturn]] void fail(const std::string& problem) const {
    if (in_metadata_) throw FileError(file_, "__metadata__ " + problem);
    fail_tensor(file_, name_, problem);
  }
  const std::string& file_;
  const std::string_view header_;
  const std::uint64_t data_bytes_;
  const Strict strict_;
  Tensors& tensors_;
  Metadata& metadata_;

  Place place_ = Place::file;
  std::vector<Place> places_;  ///< those around place_
  bool in_metadata_ = false, has_metadata_ = false;
  std::string name_, field_;  ///< of the tensor
  std::string key_;           ///< within the metadata
  std::optional<std::string> dtype_;
  std::optional<TensorShape> shape_, offsets_;
};

/// Sorted by offsets, tensors must follow one another from the first byte of the data to the last.
inline void check_layout(const std::string& file, const Tensors& tensors, std::uint64_t data_bytes) {
  std::vector<const Tensors::value_type*> order;
  order.reserve(tensors.size());
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::uint64_t end = 0;
  for (const auto* tensor : order) {
    const auto& [name, info] = *tensor;
    if (info.begin != end)
      fail_tensor(file, name,
                  "data_offsets begins at " + std::to_string(info.begin) + ", expected " +
                      std::to_string(end) +
                      ", where the tensor before it ends: tensors leave no hole and do not overlap");
    end = info.end;
  }
  if (end != data_bytes)
    throw FileError(file, "the tensors end at byte " + std::to_string(end) + " of the data, expected " +
                              std::to_string(data_bytes) + ", where the file ends");
}

inline constexpr std::string_view checksum_key = "ddl.xxh64";

inline std::string checksum_key_of(const std::string& name) { return std::string(checksum_key) + ":" + name; }

inline std::string checksum_text(std::span<const std::byte> bytes) {
  std::string text(16, '0');
  std::uint64_t hash = xxh64(bytes);
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, hash >>= 4)
    *digit = "0123456789abcdef"[hash & 15];
  return text;
}

/// The checksum of what a header says, in a fixed order: a program that writes the same header in another way
/// keeps it. Offsets are left out, since every tensor's data are checked by its name.
inline std::string header_checksum(const Metadata& metadata, const Tensors& tensors) {
  std::string text;
  const auto add = [&](std::string_view part) {
    text += std::to_string(part.size()) + ':';
    text += part;
  };
  add(std::to_string(metadata.size()));
  for (const auto& [key, value] : metadata) add(key), add(value);
  for (const auto& [name, info] : tensors) add(name), add(info.dtype), add(tensor_shape_text(info.shape));
  return checksum_text(std::as_bytes(std::span(text)));
}

/// Moves the checksums out of the metadata and compares them. @return whether there are any.
inline bool take_checksums(const std::string& file, Metadata& metadata, const Tensors& tensors,
                           std::span<const std::byte> data) {
  Metadata stored;
  for (auto at = metadata.lower_bound(std::string(checksum_key));
       at != metadata.end() && at->first.starts_with(checksum_key);)
    stored.insert(metadata.extract(at++));
  if (stored.empty()) return false;
  // What is wrong with one of them; empty if nothing is.
  const auto problem = [&](const std::string& key, const auto& computed) -> std::string {
    const auto entry = stored.extract(key);
    if (!entry) return "has no checksum, expected one as for the others";
    const std::string now = computed();
    if (entry.mapped() == now) return {};
    return "has the checksum " + now + ", expected " + in_quotes(entry.mapped()) + ", which is in the file";
  };
  for (const auto& [name, info] : tensors) {
    const auto bytes =
        data.subspan(static_cast<std::size_t>(info.begin), static_cast<std::size_t>(info.end - info.begin));
    const std::string wrong = problem(checksum_key_of(name), [&] { return checksum_text(bytes); });
    if (!wrong.empty()) fail_tensor(file, name, wrong);
  }
  const std::string wrong =
      problem(std::string(checksum_key), [&] { return header_checksum(metadata, tensors); });
  if (!wrong.empty()) throw FileError(file, "the header " + wrong);
  if (!stored.empty())
    throw FileError(file, "__metadata__ key " + in_quotes(stored.begin()->first) +
                              " is the checksum of a tensor that is not in the file");
  return true;
}

/// The header as the parser is to see it: it quotes in its errors what it read last, white space before that
/// too, in which it writes a line feed as 8 characters. Outside strings a blank means the same.
inline std::string blank_whitespace(std::string header) {
  bool in_string = false;
  for (std::size_t i = 0; i < header.size(); ++i) {
    char& c = header[i];
    if (c == '"')
      in_string = !in_string;
    else if (in_string && c == '\\')
      ++i;
    else if (!in_string && (c == '\n' || c == '\r' || c == '\t'))
      c = ' ';
  }
  return header;
}

}  // namespace detail

/// A safetensors file, of which every rule was checked before there was one of these: all offsets lie within
/// the file, every tensor of a known dtype has as many bytes as its shape asks for, and all checksums, if the
/// file has them, are right. Copies share the bytes.
///
/// Names are data; nothing is ever opened by one. Reading takes memory in proportion to the bytes that are in
/// the file, whatever its header claims.
class SafetensorsFile {
 public:
  /// Strict::yes also refuses dtypes and fields that the format does not have today.
  /// @throws FileError that names the file, the tensor and the rule that is broken.
  explicit SafetensorsFile(FileContents contents, Strict strict = Strict::no)
      : contents_(std::move(contents)) {
    const std::string& file = contents_.name();
    const auto bytes = contents_.bytes();
    if (bytes.size() < 8)
      throw FileError(file, "is " + std::to_string(bytes.size()) +
                                " bytes long, expected at least the 8 that say how long the header is");
    const auto length = detail::load_little<std::uint64_t>(bytes.data());
    const std::uint64_t most = (std::min)(std::uint64_t{bytes.size() - 8}, detail::max_header_bytes);
    if (length > most)
      throw FileError(
          file, "the header is said to be " + std::to_string(length) + " bytes long, expected at most " +
                    std::to_string(most) +
                    (most < detail::max_header_bytes ? ", the rest of the file" : ", the format's limit"));
    const auto header_bytes = bytes.subspan(8, static_cast<std::size_t>(length));
    data_ = bytes.subspan(8 + header_bytes.size());

    std::string header(header_bytes.size(), ' ');
    std::memcpy(header.data(), header_bytes.data(), header_bytes.size());
    if (const std::string problem = detail::json_bytes_problem(header); !problem.empty())
      throw FileError(file, "the header " + problem);
    header = detail::blank_whitespace(std::move(header));
    detail::HeaderReader reader(file, header, data_.size(), strict, tensors_, metadata_);
    nlohmann::json::sax_parse(header, &reader);
    detail::check_layout(file, tensors_, data_.size());
    has_checksums_ = detail::take_checksums(file, metadata_, tensors_, data_);
  }
  /// The file at `path`. @throws FileError as above, and if it cannot be read.
  explicit SafetensorsFile(const std::string& path, Strict strict = Strict::no, Access access = Access::read)
      : SafetensorsFile(FileContents(path, access), strict) {}

  const std::string& file() const noexcept { return contents_.name(); }  ///< its name
  /// Without the checksums.
  const Metadata& metadata() const noexcept { return metadata_; }
  bool has_checksums() const noexcept { return has_checksums_; }  ///< which have been compared then

  /// In ascending order.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    names.reserve(tensors_.size());
    for (const auto& [name, info] : tensors_) names.push_back(name);
    return names;
  }
  /// Whether there is such a tensor.
  bool contains(std::string_view name) const { return tensors_.contains(name); }

  /// What the header says of a tensor.
  /// @throws FileError if there is no such tensor; so do the functions below.
  const TensorInfo& tensor(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) detail::fail_tensor(file(), name, "is not in the file");
    return found->second;
  }

  /// As they are in the file: little-endian, row-major, not aligned. They live as long as a copy of this
  /// file.
  std::span<const std::byte> bytes(std::string_view name) const {
    const TensorInfo& info = tensor(name);
    return data_.subspan(static_cast<std::size_t>(info.begin),
                         static_cast<std::size_t>(info.end - info.begin));
  }

  /// Calls f(element) for every element in row-major order, converted from F64, F32, F16, BF16, I8 to I64, U8
  /// to U64 or BOOL. @throws FileError if the dtype is another one, if it is real and Scalar an integer, or
  /// if a number does not fit an integer Scalar.
  template <class Scalar, class F>
  void for_each_element(std::string_view name, F&& f) const {
    const TensorInfo& info = tensor(name);
    const auto data = bytes(name);
    const bool known = detail::with_element_of(info.dtype, [&](auto element) {
      using T = decltype(element);
      for (std::size_t at = 0; at < data.size(); at += sizeof(T)) {
        const auto value = detail::convert<Scalar>(detail::load_little<T>(data.data() + at));
        if (!value)
          detail::fail_tensor(file(), name,
                              "element " + std::to_string(at / sizeof(T)) + ", " + info.dtype +
                                  ", does not fit the integer type it is read as");
        f(*value);
      }
    });
    if (!known) fail_dtype(name);
  }

  /// All elements in row-major order.
  template <class Scalar>
  Vector<Scalar> read(std::string_view name) const {
    Vector<Scalar> elements(element_count(name));
    read_into(name, elements);
    return elements;
  }

  /// A tensor of at most two dimensions; a vector is one column.
  template <class Scalar>
  Matrix<Scalar> read_matrix(std::string_view name) const {
    TensorShape shape = tensor(name).shape;
    if (shape.size() > 2)
      detail::fail_tensor(
          file(), name, "has shape " + detail::tensor_shape_text(shape) + ", expected at most 2 dimensions");
    for (const auto size : shape)  // beside a zero a size may be any number
      if (!std::in_range<Index>(size))
        detail::fail_tensor(file(), name,
                            "has shape " + detail::tensor_shape_text(shape) + ", too large for a matrix");
    shape.resize(2, 1);
    Matrix<Scalar> matrix(static_cast<Index>(shape[0]), static_cast<Index>(shape[1]));
    read_into(name, matrix);
    return matrix;
  }

  /// Fills `matrix` row by row. @throws FileError if the tensor has another number of elements.
  template <class Derived>
  void read_into(std::string_view name, Eigen::DenseBase<Derived>& matrix) const {
    if (element_count(name) != matrix.size())
      detail::fail_tensor(file(), name,
                          "has " + std::to_string(element_count(name)) + " elements, expected " +
                              std::to_string(matrix.size()));
    Index row = 0, col = 0;
    for_each_element<typename Derived::Scalar>(name, [&](const auto& x) {
      matrix.derived().coeffRef(row, col) = x;
      if (++col == matrix.cols()) ++row, col = 0;
    });
  }

 private:
  Index element_count(std::string_view name) const {
    const TensorInfo& info = tensor(name);
    const detail::Dtype* const dtype = detail::find_dtype(info.dtype);
    if (!dtype) fail_dtype(name);
    return static_cast<Index>((info.end - info.begin) * 8 / dtype->bits);
  }
  [[noreturn]] void fail_dtype(std::string_view name) const {
    detail::fail_tensor(file(), name,
                        "has dtype " + detail::in_quotes(tensor(name).dtype) +
                            ", expected F64, F32, F16, BF16, I8 to I64, U8 to U64 or BOOL");
  }

  FileContents contents_;
  std::span<const std::byte> data_;
  detail::Tensors tensors_;
  Metadata metadata_;
  bool has_checksums_ = false;
};

/// Named tensors that parameters can be read from: what functions that load a model need of SafetensorsFile,
/// ShardedSafetensors or a class of a user's own. Every function throws FileError as SafetensorsFile's does.
template <class Source>
concept TensorSource = requires(const Source& source, std::string_view name, Matrix<float>& matrix) {
  { source.file() } -> std::convertible_to<std::string>;  // what errors call it
  { source.metadata() } -> std::same_as<const Metadata&>;
  { source.names() } -> std::same_as<std::vector<std::string>>;
  { source.contains(name) } -> std::same_as<bool>;
  { source.tensor(name) } -> std::same_as<const TensorInfo&>;
  { source.template read_matrix<float>(name) } -> std::same_as<Matrix<float>>;
  source.read_into(name, matrix);
};

namespace detail {

/// An entry of the metadata. @throws FileError
template <TensorSource Source>
const std::string& metadata_entry(const Source& file, const char* key) {
  const auto entry = file.metadata().find(key);
  if (entry == file.metadata().end())
    throw FileError(file.file(), std::string("the metadata have no ") + key);
  return entry->second;
}
/// The JSON in it. @throws FileError
template <TensorSource Source>
nlohmann::json parse_metadata(const Source& file, const char* key) {
  const std::string& text = metadata_entry(file, key);
  try {
    return parse_json(text);
  } catch (const std::invalid_argument& error) {
    throw FileError(file.file(), std::string("metadata ") + key + " " + error.what());
  }
}

}  // namespace detail

/// Collects tensors and writes them as the reference does: by dtype, the widest first, then by name, the
/// metadata first and the header padded to 8 bytes, so that data are aligned. The same tensors always give
/// the same bytes; without checksums they are the reference's. Errors of the caller throw
/// std::invalid_argument.
class SafetensorsWriter {
 public:
  Metadata metadata;      ///< what the file is to say of itself
  bool checksums = true;  ///< of every tensor and of the header, in the metadata

  /// Row-major, little-endian bytes.
  void add(const std::string& name, std::string_view dtype, TensorShape shape, std::vector<std::byte> bytes) {
    const detail::Dtype* const known = detail::find_dtype(dtype);
    if (!known) fail(name, "has the unknown dtype " + detail::in_quotes(dtype));
    if (name == "__metadata__") fail(name, "has the name of the metadata");
    if (tensors_.contains(name)) fail(name, "is added twice");
    if (shape.size() > detail::max_rank) fail(name, "has more than 64 dimensions");
    const std::string problem = detail::size_problem(*known, shape, bytes.size());
    if (!problem.empty()) fail(name, problem);
    json_text(name);
    tensors_.emplace(name, Tensor{known, std::move(shape), std::move(bytes)});
  }

  /// A matrix of shape [rows, cols], or [size] if `is_vector`.
  template <class Derived>
  void add(const std::string& name, const Eigen::DenseBase<Derived>& matrix,
           bool is_vector = Derived::IsVectorAtCompileTime) {
    using Scalar = typename Derived::Scalar;
    const auto& values = matrix.derived().eval();
    std::vector<std::byte> bytes(static_cast<std::size_t>(values.size()) * sizeof(Scalar));
    std::byte* to = bytes.data();
    for (Index i = 0; i < values.rows(); ++i)
      for (Index j = 0; j < values.cols(); ++j, to += sizeof(Scalar))
        detail::store_little<Scalar>(values.coeff(i, j), to);
    add(name, detail::dtype_of<Scalar>(), detail::shape_of(values, is_vector), std::move(bytes));
  }

  /// Writes the file whole or not at all (FileWriter). @throws FileError
  void save(const std::string& path) const {
    FileWriter file(path);
    emit([&](std::span<const std::byte> bytes) { file.write(bytes); });
    file.commit();
  }

  /// What save would write.
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all;
    emit([&](std::span<const std::byte> bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); });
    return all;
  }

 private:
  struct Tensor {
    const detail::Dtype* dtype;
    TensorShape shape;
    std::vector<std::byte> bytes;
  };
  using Entry = std::map<std::string, Tensor>::value_type;

  [[noreturn]] static void fail(const std::string& name, const std::string& problem) {
    throw std::invalid_argument("ddl::SafetensorsWriter: tensor " + detail::in_quotes(name) + ": " + problem);
  }
  static std::string json_text(const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::type_error&) {
      throw std::invalid_argument("ddl::SafetensorsWriter: the text " + detail::in_quotes(text) +
                                  " is not UTF-8");
    }
  }
  static std::string json_list(const TensorShape& numbers) {
    std::string text = "[";
    for (const auto number : numbers) {
      if (text.size() > 1) text += ',';
      text += std::to_string(number);
    }
    return text + "]";
  }

  Metadata with_checksums() const {
    Metadata all = metadata;
    detail::Tensors infos;
    for (const auto& [name, tensor] : tensors_) {
      all[detail::checksum_key_of(name)] = detail::checksum_text(tensor.bytes);
      infos.emplace(name, TensorInfo{std::string(tensor.dtype->name), tensor.shape});
    }
    all[std::string(detail::checksum_key)] = detail::header_checksum(metadata, infos);
    return all;
  }

  std::string header(const std::vector<const Entry*>& order) const {
    for (const auto& [key, value] : metadata)
      if (key.starts_with(detail::checksum_key))
        throw std::invalid_argument("ddl::SafetensorsWriter: the metadata key " + detail::in_quotes(key) +
                                    " is one of the checksums', expected another");
    std::string text;
    const auto open_entry = [&](const std::string& name) {
      text += text.empty() ? "{" : ",";
      text += json_text(name) + ":{";
    };
    const Metadata all = checksums ? with_checksums() : metadata;
    if (!all.empty()) {
      open_entry("__metadata__");
      for (const auto& [key, value] : all) {
        if (text.back() != '{') text += ",";
        text += json_text(key) + ":" + json_text(value);
      }
      text += "}";
    }
    std::uint64_t end = 0;
    for (const Entry* entry : order) {
      const auto& [name, tensor] = *entry;
      const std::uint64_t begin = std::exchange(end, end + tensor.bytes.size());
      open_entry(name);
      text += "\"dtype\":\"" + std::string(tensor.dtype->name) + "\",\"shape\":" + json_list(tensor.shape) +
              ",\"data_offsets\":" + json_list({begin, end}) + "}";
    }
    text += text.empty() ? "{}" : "}";
    text.resize((text.size() + 7) / 8 * 8, ' ');
    if (text.size() > detail::max_header_bytes)
      throw std::invalid_argument("ddl::SafetensorsWriter: the header is " + std::to_string(text.size()) +
                                  " bytes long, expected at most " +
                                  std::to_string(detail::max_header_bytes));
    return text;
  }

  /// Hands the file's bytes to `sink`, piece by piece.
  template <class Sink>
  void emit(const Sink& sink) const {
    std::vector<const Entry*> order;
    for (const Entry& tensor : tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      return a->second.dtype != b->second.dtype ? a->second.dtype > b->second.dtype : a->first < b->first;
    });
    const std::string text = header(order);
    std::array<std::byte, 8> length;
    detail::store_little(std::uint64_t{text.size()}, length.data());
    sink(std::span<const std::byte>(length));
    sink(std::as_bytes(std::span(text)));
    for (const Entry* entry : order) sink(std::span<const std::byte>(entry->second.bytes));
  }

  std::map<std::string, Tensor> tensors_;
};

}  // namespace ddl
