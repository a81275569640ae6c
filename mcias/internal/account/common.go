package account

import "strings"

// stems are the words that common passwords of twelve and more characters are made of. Shorter ones never get here.
var stems = []string{"password", "passwort", "passw0rd", "p@ssw0rd", "p@ssword", "qwerty", "qwertz", "letmein", "welcome", "iloveyou",
	"administrator", "changeme", "trustno1", "dragon", "monkey", "football", "baseball", "superman", "sunshine", "princess",
	"master", "hello", "abc123", "asdfgh", "zxcvbn", "admin", "login", "secret", "test", "default"}

// common reports whether a lower-cased password is a common word or keyboard row padded with digits, signs or itself.
func common(pw string) bool {
	trimmed := strings.Trim(pw, "0123456789!?.,-_@#$%&*+= ")
	if trimmed == "" || runs(pw) {
		return true
	}
	for _, s := range stems {
		if strings.ReplaceAll(trimmed, s, "") == "" || trimmed == s {
			return true
		}
	}
	for _, row := range []string{"qwertyuiopasdfghjklzxcvbnm", "qwertzuiopasdfghjklyxcvbnm", "abcdefghijklmnopqrstuvwxyz", "1q2w3e4r5t6z7u8i9o0p", "1q2w3e4r5t6y7u8i9o0p", "1qaz2wsx3edc4rfv5tgb6yhn"} {
		if strings.Contains(row, pw) {
			return true
		}
	}
	return false
}

// runs reports whether a password is one short piece repeated.
func runs(pw string) bool {
	for n := 1; n <= 4 && n < len(pw); n++ {
		if len(pw)%n == 0 && strings.Repeat(pw[:n], len(pw)/n) == pw {
			return true
		}
	}
	return false
}
