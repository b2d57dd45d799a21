// Writes JSON text: objects, arrays, strings, numbers. Just enough for the tables of a module.
#pragma once
#include <cstdint>
#include <cstdio>
#include <string>

namespace hmmemu::device {

class JsonWriter {
 public:
  JsonWriter& open(char bracket) {
    comma();
    text_ += bracket;
    first_ = true;
    return *this;
  }
  JsonWriter& close(char bracket) {
    text_ += bracket;
    first_ = false;
    return *this;
  }
  JsonWriter& key(const char* name) {
    string(name);
    text_ += ':';
    first_ = true;
    return *this;
  }
  JsonWriter& number(uint64_t value) {
    comma();
    text_ += std::to_string(value);
    return *this;
  }
  JsonWriter& boolean(bool value) {
    comma();
    text_ += value ? "true" : "false";
    return *this;
  }
  JsonWriter& string(const char* value) {
    comma();
    text_ += '"';
    for (; value && *value; value++) character(static_cast<unsigned char>(*value));
    text_ += '"';
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  void comma() {
    if (!first_) text_ += ',';
    first_ = false;
  }
  void character(unsigned char c) {
    char escaped[8];
    if (c == '"' || c == '\\') text_ += '\\';
    if (c >= 0x20) {
      text_ += char(c);
      return;
    }
    snprintf(escaped, sizeof escaped, "\\u%04x", c);
    text_ += escaped;
  }
  std::string text_;
  bool first_ = true;
};

} // namespace hmmemu::device
