//! Registering, and asking for the verification mail again.
//!
//! Neither answer may tell whether the address has an account. So nothing is looked up while the caller waits: the
//! request is enqueued, the same way for every address, and a worker ([`super::tasks`]) does the rest.

use std::sync::{MutexGuard, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::accounts::{AccountError, Accounts, name};
use super::caller::Client;
use crate::domain::account::Registration;
use crate::domain::binding::{Binding, FormId, Forms};
use crate::domain::email::EmailAddress;
use crate::domain::password::PasswordOwner;
use crate::domain::task::Work;
use crate::ports::Limited;

/// What a form says beside the account.
#[derive(Debug, Default)]
pub struct SentForm<'a> {
    /// Tells when the form is sent twice.
    pub id: Option<&'a str>,
    /// Where the browser goes on to after the verification: a whole URL that was checked.
    pub return_to: Option<String>,
}

/// A registration that was enqueued. Says nothing about its outcome (enumeration).
#[derive(Debug)]
pub struct Registered {
    email: EmailAddress,
    /// The id of this registration.
    pub id: Uuid,
}

impl Accounts {
    /// Takes a registration. The account is made, or the owner of the address told, afterwards.
    ///
    /// # Errors
    /// [`AccountError::RegistrationClosed`], [`AccountError::InvalidEmail`], [`AccountError::Invalid`],
    /// [`AccountError::PasswordRejected`], [`AccountError::TooMany`], [`AccountError::Busy`] or
    /// [`AccountError::Store`].
    pub async fn register(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
        given_name: Option<String>,
    ) -> Result<(), AccountError> {
        self.register_form(client, email, password, given_name, SentForm::default()).await.map(|_| ())
    }

    /// [`Accounts::register`] from a form.
    ///
    /// # Errors
    /// As [`Accounts::register`].
    pub async fn register_form(
        &self,
        client: &Client,
        email: &str,
        password: SecretString,
        given_name: Option<String>,
        form: SentForm<'_>,
    ) -> Result<Registered, AccountError> {
        // Before anything is looked at: whether an address was invited, or has an account, must not show. An invited
        // person comes by the link of the invitation.
        if self.settings.registration != Registration::Open {
            return Err(AccountError::RegistrationClosed);
        }
        let email: EmailAddress = email.parse()?;
        let name = name(given_name)?;
        let known = PasswordOwner { email: Some(&email), username: None, name: name.as_deref() };
        self.acceptable(password.expose_secret(), known)?;
        let form_id =
            form.id.map(|id| FormId::of(&self.key, id, &email, name.as_deref(), password.expose_secret()));
        // It is known by everything that was typed into it, so the sender learns no more than that it sent it before.
        // The attempt is not counted: otherwise, a button that is pressed four times would end in a refusal.
        if let Some(id) = form_id.and_then(|form| self.forms().pressed_again(&form, self.now())) {
            return Ok(Registered { email, id });
        }
        self.limiter.attempt(Limited::Register, client.address, Some(email.as_str()))?;
        let requester = self.requester(client, &email, None);
        self.not_guessed(&password, known, requester).await?;
        let fresh = self.entropy.uuid();
        let id = form_id.map_or(fresh, |form| self.forms().registration(form, fresh, self.now()));
        let password = self.passwords.hash(password, requester).await?;
        let (origin, registration) = (client.origin(form.return_to), Some(id));
        self.enqueue(Work::Register { email: email.clone(), name, password, origin, registration }).await?;
        if let Some(form) = form_id {
            self.forms().taken(&form, self.now());
        }
        Ok(Registered { email, id })
    }

    fn forms(&self) -> MutexGuard<'_, Forms> {
        self.forms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the browser is to remember of its registrations after `sent`, when it brought the cookie `brought`: the
    /// value of its next cookie. It is made the same way for every address.
    #[must_use]
    pub fn bind(&self, brought: Option<&str>, sent: &Registered) -> SecretString {
        let mut binding = brought.map(|cookie| self.read_binding(cookie)).unwrap_or_default();
        binding.sends(&self.key, &sent.email, sent.id, self.now());
        binding.write(&self.key)
    }

    /// The registrations that a browser's cookie vouches for: none when the cookie is not one of ours.
    #[must_use]
    pub fn read_binding(&self, cookie: &str) -> Binding {
        Binding::read(&self.key, cookie)
    }

    /// Takes a request to mail the verification link again.
    ///
    /// # Errors
    /// [`AccountError::NoMail`], [`AccountError::InvalidEmail`], [`AccountError::TooMany`] or [`AccountError::Store`].
    pub async fn resend_verification(&self, client: &Client, email: &str) -> Result<(), AccountError> {
        self.resend_verification_for(client, email, None).await
    }

    /// [`Accounts::resend_verification`] for a browser that goes on to `return_to` afterwards: a whole URL that was
    /// checked.
    ///
    /// # Errors
    /// As [`Accounts::resend_verification`].
    pub async fn resend_verification_for(
        &self,
        client: &Client,
        email: &str,
        return_to: Option<String>,
    ) -> Result<(), AccountError> {
        self.needs_mail()?;
        let email: EmailAddress = email.parse()?;
        self.limiter.attempt(Limited::RequestMail, client.address, Some(email.as_str()))?;
        self.enqueue(Work::ResendVerification { email, origin: client.origin(return_to) }).await
    }
}
